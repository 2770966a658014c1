resource "google_project_service" "api" {
  for_each = toset(concat(
    [
      "bigquery.googleapis.com", "bigquerystorage.googleapis.com", "iam.googleapis.com", "monitoring.googleapis.com",
      "pubsub.googleapis.com", "run.googleapis.com", "storage.googleapis.com"
    ],
    local.announces_settled ? ["cloudscheduler.googleapis.com"] : [],
    length(local.announce_secrets) > 0 ? ["secretmanager.googleapis.com"] : [],
    var.registry ? ["artifactregistry.googleapis.com"] : [],
    var.trigger == "eventarc" ? ["eventarc.googleapis.com"] : [],
    local.merges ? ["bigquerydatatransfer.googleapis.com"] : [],
    local.iap ? ["iap.googleapis.com"] : [],
    length(local.secrets) > 0 ? ["secretmanager.googleapis.com"] : [],
    var.kms != null ? ["cloudkms.googleapis.com"] : [],
    try(var.network.connector, null) != null ? ["vpcaccess.googleapis.com"] : [],
  ))

  project            = var.project_id
  service            = each.value
  disable_on_destroy = false # others in the project may use it
}
