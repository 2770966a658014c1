# Who acts: one account a job, and Google's own agents. What each may do stands beside the resource it opens;
# here are only the grants on accounts, on the key, and those that exist on no smaller thing than the project.

data "google_project" "this" {
  project_id = var.project_id
}

# Asking for an agent is what makes it, and needs the API of Cloud Storage.
data "google_storage_project_service_account" "owner" {
  for_each = merge({ own = var.project_id }, { for project in var.landing.projects : project => project })

  project = each.value

  depends_on = [google_project_service.api]
}

locals {
  jobs = {
    ingest   = "Reads landing objects, writes artifacts and rows"
    backfill = "Lists landing buckets and publishes events for objects without rows"
    push     = "Calls the ingest service on behalf of Pub/Sub or Eventarc"
    browse   = "Shows rows, previews and originals; takes uploads where these are on"
    lists    = "Merges studies that changed into the table that lists are read from"
  }
  wanted_jobs = [
    for job in keys(local.jobs) : job
    if(job != "browse" || var.browse != null) && (job != "lists" || local.merges) && (job != "backfill" || var.backfill != null)
  ]

  emails = {
    for job in local.wanted_jobs :
    job => var.service_accounts[job] != null ? var.service_accounts[job] : google_service_account.job[job].email
  }
  members = { for job, email in local.emails : job => "serviceAccount:${email}" }

  number = data.google_project.this.number
  agents = {
    bigquery = "serviceAccount:bq-${local.number}@bigquery-encryption.iam.gserviceaccount.com"
    eventarc = "serviceAccount:service-${local.number}@gcp-sa-eventarc.iam.gserviceaccount.com"
    iap      = "serviceAccount:service-${local.number}@gcp-sa-iap.iam.gserviceaccount.com"
    pubsub   = "serviceAccount:service-${local.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
    registry = "serviceAccount:service-${local.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    run      = "serviceAccount:service-${local.number}@serverless-robot-prod.iam.gserviceaccount.com"
    transfer = "serviceAccount:service-${local.number}@gcp-sa-bigquerydatatransfer.iam.gserviceaccount.com"
    storage  = "serviceAccount:${data.google_storage_project_service_account.owner["own"].email_address}"
  }

  kms_key = try(var.kms.key, null)
}

resource "google_service_account" "job" {
  for_each = toset([for job in local.wanted_jobs : job if var.service_accounts[job] == null])

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "${var.name} ${each.key}"
  description  = local.jobs[each.key]

  depends_on = [google_project_service.api]
}

# In a new project an agent is made when it first acts, which is after it gets its grants. BigQuery's and
# Storage's are not made this way.
resource "google_project_service_identity" "agent" {
  for_each = toset(concat(
    ["pubsub.googleapis.com", "run.googleapis.com"],
    var.registry ? ["artifactregistry.googleapis.com"] : [],
    var.trigger == "eventarc" ? ["eventarc.googleapis.com"] : [],
    local.iap ? ["iap.googleapis.com"] : [],
    local.merges ? ["bigquerydatatransfer.googleapis.com"] : [],
  ))
  provider = google-beta

  project = var.project_id
  service = each.value

  depends_on = [google_project_service.api]
}

# Pub/Sub signs its pushes as the push account; of all that a token creator may do it needs only this.
resource "google_service_account_iam_member" "push_token" {
  service_account_id = try(
    google_service_account.job["push"].name, "projects/-/serviceAccounts/${var.service_accounts.push}"
  )
  role   = "roles/iam.serviceAccountOpenIdTokenCreator"
  member = local.agents.pubsub

  depends_on = [google_project_service_identity.agent]
}

resource "google_kms_crypto_key_iam_member" "agent" {
  for_each = toset([
    for agent in keys(local.agents) : agent
    if try(var.kms.grant, false) && !contains(["eventarc", "iap", "transfer"], agent) && (agent != "registry" || var.registry)
  ])

  crypto_key_id = local.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = local.agents[each.key]

  depends_on = [google_project_service_identity.agent]
}

# Queries run as jobs, and a job belongs to a project: BigQuery knows no smaller place for this role, which lets
# read nothing by itself. The ingest account asks `instances` which artifacts its rows name, before it removes those
# of a row that was refused, or of an archive that went: else both would fail until they are given up.
resource "google_project_iam_member" "jobs" {
  for_each = toset([for job in local.wanted_jobs : job if job != "push"])

  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = local.members[each.key]
}

moved {
  from = google_project_iam_member.browse_jobs[0]
  to   = google_project_iam_member.jobs["browse"]
}
