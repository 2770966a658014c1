# The same wiring with other ways in, buckets that exist, keys, networks and a second service.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "google-beta" {}

variables {
  project_id = "demo"
  image      = "example/dicomlake@sha256:0"
}

run "one_bucket_does_not_wake_itself" {
  module {
    source = "./examples/single-bucket"
  }

  assert {
    condition     = strcontains(output.next_steps, "gcloud storage cp FILE.dcm gs://demo-dicomlake/INPUT_FOLDER/\n")
    error_message = "The example applies and names where to upload."
  }
}

run "tables_made_by_day_stay_so" {
  variables {
    dataset = { instances_partition = "DAY" }
  }

  assert {
    condition     = [for name in ["failures", "instances"] : google_bigquery_table.table[name].time_partitioning[0].type] == ["DAY", "DAY"]
    error_message = "The table instances is partitioned as it was."
  }
}

run "one_bucket_is_shared_by_prefix" {
  variables {
    landing   = { bucket = "lake", prefixes = ["INPUT_FOLDER/"] }
    artifacts = { bucket = "lake", images = "OUTPUT_IMAGE_FOLDER/images/", metadata = "OUTPUT_JSON_FOLDER/metadata/" }
  }

  assert {
    condition     = [for bucket in google_storage_bucket.bucket : bucket.name] == ["lake"]
    error_message = "One bucket is made."
  }

  assert {
    condition     = [for one in google_storage_notification.landing : [one.bucket, one.object_name_prefix]] == [["lake", "INPUT_FOLDER/"]]
    error_message = "Only objects under INPUT_FOLDER/ are announced."
  }

  assert {
    condition = { for one in google_storage_bucket_iam_member.names : one.role => one.condition[0].expression } == {
      "roles/storage.objectViewer" = "resource.name.startsWith(\"projects/_/buckets/lake/objects/INPUT_FOLDER/\")"
      "roles/storage.objectUser"   = "resource.name.startsWith(\"projects/_/buckets/lake/objects/OUTPUT_IMAGE_FOLDER/images/\") || resource.name.startsWith(\"projects/_/buckets/lake/objects/OUTPUT_JSON_FOLDER/metadata/\")"
    }
    error_message = "The service reads under INPUT_FOLDER/ and writes under its own prefixes only."
  }

  assert {
    condition     = google_storage_bucket_iam_binding.basic_roles["landing legacyBucketReader"].bucket == "lake" && google_storage_bucket_iam_binding.basic_roles["landing legacyBucketReader"].members == toset(["projectOwner:demo", "serviceAccount:${google_service_account.job["ingest"].email}"]) && length(google_storage_bucket_iam_member.listed) == 0
    error_message = "The service may list: whoever may not gets 403 instead of 404 for an object that is gone."
  }

  assert {
    condition = alltrue([
      for name, value in {
        SOURCE__URL         = "gs://lake/INPUT_FOLDER"
        ARTIFACTS__URL      = "gs://lake"
        ARTIFACTS__IMAGES   = "OUTPUT_IMAGE_FOLDER/images/"
        ARTIFACTS__METADATA = "OUTPUT_JSON_FOLDER/metadata/"
      } :
      contains([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service knows its own prefixes."
  }
}

run "buckets_that_exist_are_served" {
  variables {
    landing   = { existing = ["pacs-a", "pacs-b"], prefixes = ["ct/", "mr/"] }
    artifacts = { bucket = "previews" }
    dataset   = { id = "imaging", create = false }
    topic     = "projects/hub/topics/changes"
    service_accounts = {
      ingest = "lake@hub.iam.gserviceaccount.com"
      push   = "push@hub.iam.gserviceaccount.com"
    }
  }

  assert {
    condition     = length(google_storage_bucket.bucket) + length(google_bigquery_dataset.lake) + length(google_service_account.job) == 0 && keys(google_pubsub_topic.topic) == ["backfill", "dead-letter"]
    error_message = "Nothing is made that is there."
  }

  assert {
    condition     = keys(google_storage_notification.landing) == ["pacs-a/ct/", "pacs-a/mr/", "pacs-b/ct/", "pacs-b/mr/"] && alltrue([for one in google_storage_notification.landing : one.topic == "projects/hub/topics/changes"])
    error_message = "Each bucket announces each prefix to the existing topic."
  }

  assert {
    condition = alltrue([
      for name, value in { SOURCE__URL = "gs://pacs-a", SOURCE__BUCKETS = "[\"pacs-b\"]", WAREHOUSE__URL = "bigquery:demo.imaging", BUS__URL = "pubsub:projects/hub/topics/changes" } :
      contains([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service serves all of them."
  }

  assert {
    condition     = toset([for one in google_storage_bucket_iam_member.names : "${one.bucket} ${one.role} ${one.member}"]) == toset(["pacs-a roles/storage.objectViewer serviceAccount:lake@hub.iam.gserviceaccount.com", "pacs-b roles/storage.objectViewer serviceAccount:lake@hub.iam.gserviceaccount.com", "previews roles/storage.objectUser serviceAccount:lake@hub.iam.gserviceaccount.com"])
    error_message = "The existing account gets the grants."
  }

  assert {
    condition     = google_service_account_iam_member.push_token.service_account_id == "projects/-/serviceAccounts/push@hub.iam.gserviceaccount.com"
    error_message = "Pub/Sub makes tokens of the existing push account."
  }
}

run "a_bucket_of_another_project" {
  variables {
    landing = { existing = ["pacs"], projects = ["hospital"], prefixes = ["ct/"] }
  }

  override_data {
    target = data.google_storage_project_service_account.owner["hospital"]
    values = { email_address = "service-42@gs-project-accounts.iam.gserviceaccount.com" }
  }

  override_data {
    target = data.google_storage_bucket.existing
    values = { project_number = 42 }
  }

  assert {
    condition = { for key, one in google_pubsub_topic_iam_member.storage_publishes : key => "${one.role} ${one.member}" } == {
      own      = "roles/pubsub.publisher serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
      hospital = "roles/pubsub.publisher serviceAccount:service-42@gs-project-accounts.iam.gserviceaccount.com"
    }
    error_message = "The Cloud Storage agent of the owning project publishes."
  }

  assert {
    condition     = [for one in google_storage_bucket_iam_member.listed : [one.bucket, one.role]] == [["pacs", "roles/storage.legacyBucketReader"]]
    error_message = "In a bucket that is not ours, the right to list is one more grant and displaces none."
  }
}

run "colder_classes_are_announced" {
  command = plan

  variables {
    landing = { lifecycle = [{ age_days = 90, storage_class = "COLDLINE" }] }
  }

  expect_failures = [check.colder_classes]
}

run "colder_classes_without_metadata_updates" {
  command = plan

  variables {
    landing     = { lifecycle = [{ age_days = 90, storage_class = "COLDLINE" }, { age_days = 3650 }] }
    event_types = ["OBJECT_FINALIZE", "OBJECT_DELETE", "OBJECT_ARCHIVE"]
  }
}

run "views_where_removals_are_not_announced" {
  variables {
    landing     = { versioning = false }
    event_types = ["OBJECT_FINALIZE", "OBJECT_DELETE"]
  }

  assert {
    condition = (
      length(google_bigquery_table.materialized) == 0 &&
      strcontains(google_bigquery_table.view["instances_current"].view[0].query, "PARTITION BY object_uri) AS removed_generation") &&
      google_bigquery_routine.function["current_of_study"].definition_body == "SELECT * FROM `demo.dicomlake.instances_current` WHERE study_instance_uid = uid"
    )
    error_message = "The views look at all rows of an object."
  }

  assert {
    condition     = length(google_bigquery_table.study_current) + length(google_bigquery_data_transfer_config.lists) + length(google_bigquery_table_iam_member.lists_reads) == 0
    error_message = "No table of studies is merged: each merge would read all rows."
  }
}

run "lists_are_merged_every_hour" {
  variables {
    browse = { invokers = ["group:radiology@example.org"] }
    kms    = { key = "projects/demo/locations/us-central1/keyRings/ring/cryptoKeys/key" }
  }

  assert {
    condition = (
      [for one in google_bigquery_data_transfer_config.lists : [one.data_source_id, one.schedule, one.location]] == [["scheduled_query", "every 1 hours", "us-central1"]] &&
      google_bigquery_data_transfer_config.lists[0].destination_dataset_id == null &&
      google_bigquery_data_transfer_config.lists[0].service_account_name == google_service_account.job["lists"].email &&
      google_bigquery_data_transfer_config.lists[0].encryption_configuration[0].kms_key_name == var.kms.key &&
      google_bigquery_table.study_current[0].encryption_configuration[0].kms_key_name == var.kms.key
    )
    error_message = "A scheduled query runs as an account of its own, with the key, and writes by its statements alone."
  }

  assert {
    condition = (
      startswith(google_bigquery_data_transfer_config.lists[0].params.query, "DECLARE since TIMESTAMP DEFAULT (") &&
      strcontains(google_bigquery_data_transfer_config.lists[0].params.query, "MERGE `demo.dicomlake.study_current` AS t") &&
      !strcontains(google_bigquery_data_transfer_config.lists[0].params.query, "$${")
    )
    error_message = "It merges into the table of this dataset."
  }

  assert {
    condition = toset([
      for one in concat(values(google_bigquery_table_iam_member.lists_reads), google_bigquery_table_iam_member.lists_merges) :
      "${one.role} ${one.table_id}" if one.member == "serviceAccount:${google_service_account.job["lists"].email}"
      ]) == toset([
      "roles/bigquery.dataViewer instances", "roles/bigquery.dataViewer instances_current", "roles/bigquery.dataViewer removed",
      "roles/bigquery.dataEditor study_current",
    ]) && google_project_iam_member.jobs["lists"].role == "roles/bigquery.jobUser"
    error_message = "Its account reads rows, and writes that table."
  }

  assert {
    condition = (
      google_service_account_iam_member.lists_token[0].role == "roles/iam.serviceAccountTokenCreator" &&
      google_service_account_iam_member.lists_token[0].member == "serviceAccount:service-123456789012@gcp-sa-bigquerydatatransfer.iam.gserviceaccount.com" &&
      contains(keys(google_project_service.api), "bigquerydatatransfer.googleapis.com")
    )
    error_message = "The service of scheduled queries may act as the account."
  }
}

run "basic_roles_as_google_has_them" {
  variables {
    restrict_basic_roles = false
    landing              = { prefixes = ["in/"] }
  }

  assert {
    condition     = length(google_storage_bucket_iam_binding.basic_roles) == 0 && length(google_bigquery_dataset.lake[0].access) == 0 && length(google_storage_bucket_iam_member.listed) == 1
    error_message = "Nothing is restricted where that is not wanted."
  }
}

run "named_readers_of_the_tables" {
  variables {
    dataset = { readers = ["user:a@example.org", "group:g@example.org", "serviceAccount:s@p.iam.gserviceaccount.com", "domain:example.org"] }
  }

  assert {
    condition = toset([for one in google_bigquery_dataset.lake[0].access : [one.role, one.special_group, one.user_by_email, one.group_by_email, one.domain]]) == toset([
      ["OWNER", "projectOwners", null, null, null],
      ["READER", null, "a@example.org", null, null],
      ["READER", null, null, "g@example.org", null],
      ["READER", null, "s@p.iam.gserviceaccount.com", null, null],
      ["READER", null, null, null, "example.org"],
    ])
    error_message = "Owners, and who is named."
  }
}

run "eventarc_has_a_trigger_a_type" {
  variables {
    trigger = "eventarc"
    landing = { existing = ["pacs"], location = "US" }
  }

  assert {
    condition = [for one in google_eventarc_trigger.landing : { for rule in one.matching_criteria : rule.attribute => rule.value }] == [
      for type in ["archived", "deleted", "finalized", "metadataUpdated"] : { bucket = "pacs", type = "google.cloud.storage.object.v1.${type}" }
    ]
    error_message = "One trigger for each type of event."
  }

  assert {
    condition = alltrue([
      for one in google_eventarc_trigger.landing :
      one.location == "us" && one.service_account == google_service_account.job["push"].email &&
      one.destination[0].cloud_run_service[0].service == "dicomlake-ingest" && one.destination[0].cloud_run_service[0].path == "/"
    ])
    error_message = "Triggers are where the bucket is and call the service as the push account."
  }

  assert {
    condition     = length(google_storage_notification.landing) + length(google_pubsub_topic_iam_member.storage_publishes) == 0
    error_message = "Events do not come twice."
  }

  assert {
    condition     = [for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}" if startswith(env.name, "DICOMLAKE__API__")] == ["DICOMLAKE__API__AUTH=platform", "DICOMLAKE__API__HOST=0.0.0.0", "DICOMLAKE__API__SERVE=ingest"]
    error_message = "Tokens of Eventarc have another audience: Cloud Run alone checks them."
  }

  assert {
    condition = { for one in google_project_iam_member.eventarc : one.role => one.member } == {
      "roles/pubsub.publisher"       = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
      "roles/eventarc.eventReceiver" = "serviceAccount:${google_service_account.job["push"].email}"
      "roles/eventarc.serviceAgent"  = "serviceAccount:service-123456789012@gcp-sa-eventarc.iam.gserviceaccount.com"
    }
    error_message = "Eventarc needs three roles on the project."
  }

  assert {
    condition     = length(regexall("--ack-deadline=600 [^$]*--max-delivery-attempts=20", output.eventarc_gaps)) == 4
    error_message = "The commands that mend Eventarc's subscriptions are given, one a trigger."
  }

  assert {
    condition     = anytrue([for one in google_monitoring_alert_policy.alert["backlog"].conditions : strcontains(one.condition_threshold[0].filter, "starts_with(\"eventarc-us-dicomlake-\")")])
    error_message = "The backlog of Eventarc's subscriptions is watched too."
  }
}

run "one_key_for_everything" {
  variables {
    kms      = { key = "projects/demo/locations/us-central1/keyRings/ring/cryptoKeys/key" }
    registry = true
  }

  assert {
    condition = alltrue(concat(
      [for one in google_storage_bucket.bucket : one.encryption[0].default_kms_key_name == var.kms.key],
      [for one in google_pubsub_topic.topic : one.kms_key_name == var.kms.key],
      [for one in google_bigquery_table.table : one.encryption_configuration[0].kms_key_name == var.kms.key],
      [for one in google_bigquery_table.materialized : one.encryption_configuration[0].kms_key_name == var.kms.key],
      [for one in google_cloud_run_v2_service.service : one.template[0].encryption_key == var.kms.key],
      [
        google_bigquery_dataset.lake[0].default_encryption_configuration[0].kms_key_name == var.kms.key,
        google_artifact_registry_repository.image[0].kms_key_name == var.kms.key,
      ],
    ))
    error_message = "Buckets, topics, dataset, tables, service and registry use the key."
  }

  assert {
    condition     = keys(google_kms_crypto_key_iam_member.agent) == ["bigquery", "pubsub", "registry", "run", "storage"] && alltrue([for one in google_kms_crypto_key_iam_member.agent : one.role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"])
    error_message = "Each service agent may use the key."
  }
}

run "browse_reads_and_keeps_answers" {
  variables {
    browse = { invokers = ["group:radiology@example.org"] }
  }

  assert {
    condition = { for env in google_cloud_run_v2_service.service["browse"].template[0].containers[0].env : env.name => env.value if can(regex("__(API|BROWSE)__", env.name)) } == {
      DICOMLAKE__API__AUTH                = "platform"
      DICOMLAKE__API__HOST                = "0.0.0.0"
      DICOMLAKE__API__PUBLIC_URL          = ""
      DICOMLAKE__API__ROLES               = "{}"
      DICOMLAKE__API__SERVE               = "browse"
      DICOMLAKE__API__USERS               = "platform"
      DICOMLAKE__BROWSE__MAX_UPLOAD_BYTES = "33554432"
      DICOMLAKE__BROWSE__UPLOADS          = "false"
    }
    error_message = "It serves no pushes and takes no uploads; whom Cloud Run lets in may read."
  }

  assert {
    condition = toset([
      for one in google_storage_bucket_iam_member.names : "${one.role} ${one.bucket} ${try(one.condition[0].expression, "")}"
      if one.member == "serviceAccount:${google_service_account.job["browse"].email}"
      ]) == toset([
      "roles/storage.objectViewer demo-dicomlake-landing ",
      "roles/storage.objectViewer demo-dicomlake-artifacts ",
      "roles/storage.objectUser demo-dicomlake-artifacts resource.name.startsWith(\"projects/_/buckets/demo-dicomlake-artifacts/objects/cache/\")",
    ])
    error_message = "Its own account reads originals and artifacts, and writes below cache/ alone."
  }

  assert {
    condition = toset(concat(
      [for one in google_bigquery_table_iam_member.browses : one.role if one.member == "serviceAccount:${google_service_account.job["browse"].email}"],
      [for one in google_project_iam_member.jobs : one.role if one.member == "serviceAccount:${google_service_account.job["browse"].email}"],
    )) == toset(["roles/bigquery.dataViewer", "roles/bigquery.jobUser"]) && google_cloud_run_v2_service.service["browse"].template[0].service_account == google_service_account.job["browse"].email
    error_message = "Its account views tables and runs queries."
  }

  assert {
    condition     = length(google_pubsub_topic_iam_member.browse_requeues) + length(google_bigquery_table_iam_member.browse_mends) + length(google_secret_manager_secret_iam_member.browse_reads) == 0
    error_message = "It sends nothing, drops nothing and reads no secret."
  }

  assert {
    condition     = toset([for one in google_bigquery_table_iam_member.browses : one.table_id]) == toset(["announced", "dead_letter", "dead_letters", "deliveries", "failures", "instances", "instances_current", "jobs", "removed", "series", "studies", "study_current"]) && [for one in google_bigquery_routine_iam_member.browses : "${one.routine_id} ${one.role}"] == ["current_of_study roles/bigquery.dataViewer"]
    error_message = "It reads every table that a view reads."
  }

  assert {
    condition = (
      [for one in google_cloud_run_v2_service_iam_member.browse_invokes : [one.name, one.role, one.member]] == [["dicomlake-browse", "roles/run.invoker", "group:radiology@example.org"]] &&
      !coalesce(google_cloud_run_v2_service.service["browse"].invoker_iam_disabled, false) &&
      !coalesce(google_cloud_run_v2_service.service["browse"].iap_enabled, false)
    )
    error_message = "Cloud Run lets in the invokers, and nobody else."
  }

  assert {
    condition = [
      for rule in google_storage_bucket.bucket["artifacts"].lifecycle_rule : [for one in rule.condition : [one.age, one.matches_prefix]][0]
      if one([for action in rule.action : action.type]) == "Delete"
    ] == [[7, tolist(["cache/"])]]
    error_message = "Answers that are kept go after seven days."
  }
}

run "browse_behind_iap" {
  variables {
    browse = {
      users    = "iap"
      invokers = ["domain:example.org"]
      roles    = { "ann@example.org" = "user", "domain:example.org" = "read-only" }
    }
  }

  assert {
    condition = (
      google_cloud_run_v2_service.service["browse"].iap_enabled && length(google_cloud_run_v2_service.service) == 2 &&
      !coalesce(google_cloud_run_v2_service.service["ingest"].iap_enabled, false) &&
      [for one in google_cloud_run_v2_service_iam_member.browse_invokes : one.member] == ["serviceAccount:service-123456789012@gcp-sa-iap.iam.gserviceaccount.com"]
    )
    error_message = "IAP stands before the browse service alone, and alone may invoke it."
  }

  assert {
    condition     = [for one in google_iap_web_cloud_run_service_iam_member.browse_enters : [one.cloud_run_service_name, one.location, one.role, one.member]] == [["dicomlake-browse", "us-central1", "roles/iap.httpsResourceAccessor", "domain:example.org"]]
    error_message = "IAP lets in the invokers."
  }

  assert {
    condition = alltrue([
      for name, value in {
        API__USERS          = "iap"
        API__USERS_AUDIENCE = "/projects/123456789012/locations/us-central1/services/dicomlake-browse"
        API__ROLES          = "{\"ann@example.org\":\"user\",\"domain:example.org\":\"read-only\"}"
      } :
      contains([for env in google_cloud_run_v2_service.service["browse"].template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service takes only what IAP has signed for it."
  }

  assert {
    condition     = contains(keys(google_project_service.api), "iap.googleapis.com") && contains(keys(google_project_service_identity.agent), "iap.googleapis.com")
    error_message = "IAP's API is on and its agent is there."
  }
}

run "browse_with_an_issuer" {
  variables {
    browse = {
      users      = "oidc"
      roles      = { "*" = "read-only" }
      public_url = "https://lake.example.org"
      oidc = {
        issuer        = "https://id.example.org/realms/hospital"
        client_id     = "dicomlake"
        client_secret = "projects/vault/secrets/oidc"
        users_key     = "lake-users-key"
      }
    }
  }

  assert {
    condition     = google_cloud_run_v2_service.service["browse"].invoker_iam_disabled && length(google_cloud_run_v2_service_iam_member.browse_invokes) == 0 && !coalesce(google_cloud_run_v2_service.service["ingest"].invoker_iam_disabled, false)
    error_message = "Cloud Run lets people through, for the service checks who they are."
  }

  assert {
    condition = alltrue([
      for name, value in {
        API__USERS          = "oidc"
        API__OIDC_ISSUER    = "https://id.example.org/realms/hospital"
        API__OIDC_CLIENT_ID = "dicomlake"
        API__USERS_AUDIENCE = "dicomlake"
        API__PUBLIC_URL     = "https://lake.example.org"
      } :
      contains([for env in google_cloud_run_v2_service.service["browse"].template[0].containers[0].env : "${env.name}=${coalesce(env.value, "-")}"], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service knows the issuer."
  }

  assert {
    condition = {
      for env in google_cloud_run_v2_service.service["browse"].template[0].containers[0].env :
      env.name => env.value_source[0].secret_key_ref[0].secret if length(env.value_source) > 0
      } == {
      DICOMLAKE__API__OIDC_CLIENT_SECRET = "projects/vault/secrets/oidc"
      DICOMLAKE__API__USERS_KEY          = "projects/demo/secrets/lake-users-key"
    }
    error_message = "Secrets come from Secret Manager, and no value of them is in the state."
  }

  assert {
    condition = toset([for one in google_secret_manager_secret_iam_member.browse_reads : "${one.project} ${one.secret_id} ${one.role} ${one.member}"]) == toset([
      "vault projects/vault/secrets/oidc roles/secretmanager.secretAccessor serviceAccount:${google_service_account.job["browse"].email}",
      "demo projects/demo/secrets/lake-users-key roles/secretmanager.secretAccessor serviceAccount:${google_service_account.job["browse"].email}",
    ])
    error_message = "Only the browse account may read them."
  }

  assert {
    condition     = alltrue([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : !can(regex("SECRET|USERS_KEY", env.name))])
    error_message = "The ingest service has no secret."
  }
}

run "browse_that_takes_uploads_and_mends" {
  variables {
    landing = { prefixes = ["ct/", "in/"], write_prefix = "in/people/" }
    browse = {
      invokers = ["domain:example.org"]
      roles    = { "ann@example.org" = "admin", "domain:example.org" = "user" }
      uploads  = true
      admin    = true
    }
  }

  assert {
    condition = [
      for one in google_storage_bucket_iam_member.names : [one.bucket, one.condition[0].expression]
      if one.role == "roles/storage.objectUser" && one.bucket == "demo-dicomlake-landing"
    ] == [["demo-dicomlake-landing", "resource.name.startsWith(\"projects/_/buckets/demo-dicomlake-landing/objects/in/people/\")"]]
    error_message = "It writes below write_prefix of the landing bucket alone."
  }

  assert {
    condition     = alltrue([for service in google_cloud_run_v2_service.service : contains([for env in service.template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__SOURCE__WRITE_PREFIX=in/people/")]) && contains([for env in google_cloud_run_v2_service.service["browse"].template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__BROWSE__UPLOADS=true")
    error_message = "Both services know where uploads go, and browse takes them."
  }

  assert {
    condition = (
      [for one in google_pubsub_topic_iam_member.browse_requeues : [one.topic, one.role, one.member]] == [[google_pubsub_topic.topic["events"].id, "roles/pubsub.publisher", "serviceAccount:${google_service_account.job["browse"].email}"]] &&
      [for one in google_bigquery_table_iam_member.browse_mends : [one.table_id, one.role, one.member]] == [["dead_letter", "roles/bigquery.dataEditor", "serviceAccount:${google_service_account.job["browse"].email}"]]
    )
    error_message = "It sends dead letters again and drops them."
  }
}

run "uploads_below_the_only_prefix" {
  variables {
    landing   = { bucket = "lake", prefixes = ["INPUT_FOLDER/"] }
    artifacts = { bucket = "lake", images = "out/images/", metadata = "out/metadata/" }
    browse    = { roles = { "*" = "user" }, uploads = true }
  }

  assert {
    condition = toset([
      for one in google_storage_bucket_iam_member.names : "${one.role} ${one.condition[0].expression}"
      if one.member == "serviceAccount:${google_service_account.job["browse"].email}"
      ]) == toset([
      "roles/storage.objectViewer resource.name.startsWith(\"projects/_/buckets/lake/objects/INPUT_FOLDER/\")",
      "roles/storage.objectViewer resource.name.startsWith(\"projects/_/buckets/lake/objects/out/images/\") || resource.name.startsWith(\"projects/_/buckets/lake/objects/out/metadata/\") || resource.name.startsWith(\"projects/_/buckets/lake/objects/cache/\")",
      "roles/storage.objectUser resource.name.startsWith(\"projects/_/buckets/lake/objects/INPUT_FOLDER/\")",
      "roles/storage.objectUser resource.name.startsWith(\"projects/_/buckets/lake/objects/cache/\")",
    ])
    error_message = "In one bucket it reads input, output and cache, and writes input and cache."
  }

  assert {
    condition     = contains([for rule in google_storage_bucket.bucket["landing"].lifecycle_rule : [for one in rule.condition : one.matches_prefix][0]], tolist(["cache/"]))
    error_message = "There too, answers that are kept go after seven days."
  }
}

run "a_connector" {
  variables {
    network = { connector = "projects/demo/locations/us-central1/connectors/one" }
  }

  assert {
    condition     = google_cloud_run_v2_service.service["ingest"].template[0].vpc_access[0].connector == var.network.connector && length(google_cloud_run_v2_service.service["ingest"].template[0].vpc_access[0].network_interfaces) == 0
    error_message = "Traffic goes through the connector."
  }
}

run "direct_egress" {
  variables {
    network = { network = "vpc", subnetwork = "subnet", tags = ["lake"], egress = "ALL_TRAFFIC" }
  }

  assert {
    condition = (
      google_cloud_run_v2_service.service["ingest"].template[0].vpc_access[0].connector == null &&
      google_cloud_run_v2_service.service["ingest"].template[0].vpc_access[0].egress == "ALL_TRAFFIC" &&
      google_cloud_run_v2_service.service["ingest"].template[0].vpc_access[0].network_interfaces[0].subnetwork == "subnet"
    )
    error_message = "The instance has an interface in the subnet."
  }
}

run "settings_reach_the_service" {
  variables {
    ingest   = { cpu = 2, memory = "2Gi", timeout_s = 540 }
    settings = { PREVIEW__MAX_SIDE = "1024", WORKERS__COUNT = "3" }
  }

  assert {
    condition = alltrue([
      for name, value in { PREVIEW__MAX_SIDE = "1024", WORKERS__COUNT = "3", WORKERS__MEMORY_BYTES = "838860800", WORKERS__INFLIGHT_BYTES = "268435456", DELIVERY__DEADLINE_S = "486" } :
      contains([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}"], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "Settings are passed on, and win over what is derived from the size of the instance."
  }
}

run "announcements" {
  variables {
    announce_urls             = ["kafka://kafka.example:9092/dicom.metadata.v1", "pubsub:projects/demo/topics/dicom"]
    announce_dead_letter_urls = ["pubsub:projects/other/topics/dicom-dlq"]
    announce_secrets          = { kafka = "projects/demo/secrets/kafka" }
  }

  assert {
    condition = alltrue([
      for name, value in {
        ANNOUNCE__URLS             = jsonencode(var.announce_urls)
        ANNOUNCE__DEAD_LETTER_URLS = jsonencode(var.announce_dead_letter_urls)
        ANNOUNCE__SETTLE_S         = "300"
      } :
      contains([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}" if env.value != null], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service knows its targets."
  }

  assert {
    condition     = [for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : env.value_source[0].secret_key_ref[0].secret if env.name == "DICOMLAKE__ANNOUNCE__KAFKA"] == ["projects/demo/secrets/kafka"]
    error_message = "Passwords come from Secret Manager."
  }

  assert {
    condition = { for one in google_pubsub_topic_iam_member.announces : one.topic => "${one.project} ${one.role} ${one.member}" } == {
      "projects/demo/topics/dicom"      = "demo roles/pubsub.publisher serviceAccount:${google_service_account.job["ingest"].email}"
      "projects/other/topics/dicom-dlq" = "other roles/pubsub.publisher serviceAccount:${google_service_account.job["ingest"].email}"
    }
    error_message = "The service may publish to the topics, and to no other."
  }

  assert {
    condition     = [for one in google_secret_manager_secret_iam_member.announces : [one.secret_id, one.role, one.member]] == [["projects/demo/secrets/kafka", "roles/secretmanager.secretAccessor", "serviceAccount:${google_service_account.job["ingest"].email}"]]
    error_message = "The service may read that secret."
  }

  assert {
    condition = (
      google_pubsub_subscription.dead_letter_push[0].topic == google_pubsub_topic.topic["dead-letter"].id &&
      google_pubsub_subscription.dead_letter_push[0].push_config[0].push_endpoint == "https://ingest.example/dead-letters" &&
      google_pubsub_subscription.dead_letter_push[0].push_config[0].oidc_token[0].audience == "dicomlake-ingest.demo" &&
      google_pubsub_subscription.dead_letter_push[0].push_config[0].oidc_token[0].service_account_email == google_service_account.job["push"].email
    )
    error_message = "What Pub/Sub gave up is pushed to the service, as the push account."
  }

  assert {
    condition = (
      google_cloud_scheduler_job.settled[0].schedule == "*/15 * * * *" &&
      google_cloud_scheduler_job.settled[0].http_target[0].uri == "https://ingest.example/settled" &&
      google_cloud_scheduler_job.settled[0].http_target[0].oidc_token[0].audience == "dicomlake-ingest.demo"
    )
    error_message = "Settled studies are looked for every 15 minutes."
  }
}

run "forward" {
  variables {
    forward = {
      urls          = ["https://pictures.example.org/in"]
      bearer_secret = "projects/demo/secrets/receiver"
      max_attempts  = 30
      min_backoff_s = 5
    }
  }

  assert {
    condition = alltrue([
      for name, value in {
        FORWARD__URLS          = jsonencode(["https://pictures.example.org/in"])
        FORWARD__FORMAT        = "json"
        FORWARD__TIMEOUT_S     = "30"
        FORWARD__TOPIC         = google_pubsub_topic.topic["forward"].id
        DELIVERY__MAX_ATTEMPTS = "30"
      } :
      contains([for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : "${env.name}=${env.value}" if env.value != null], "DICOMLAKE__${name}=${value}")
    ])
    error_message = "The service knows its receivers, the topic of deliveries, and at which attempt to give up."
  }

  assert {
    condition     = [for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : env.value_source[0].secret_key_ref[0].secret if env.name == "DICOMLAKE__FORWARD__BEARER_SECRET"] == ["projects/demo/secrets/receiver"]
    error_message = "The token comes from Secret Manager."
  }

  assert {
    condition     = [for one in google_secret_manager_secret_iam_member.forwards : [one.project, one.secret_id, one.role, one.member]] == [["demo", "projects/demo/secrets/receiver", "roles/secretmanager.secretAccessor", "serviceAccount:${google_service_account.job["ingest"].email}"]]
    error_message = "The service may read that secret, and no other."
  }

  assert {
    condition = (
      google_pubsub_subscription.forward_push[0].topic == google_pubsub_topic.topic["forward"].id &&
      google_pubsub_subscription.forward_push[0].push_config[0].push_endpoint == "https://ingest.example/" &&
      google_pubsub_subscription.forward_push[0].push_config[0].oidc_token[0].audience == "dicomlake-ingest.demo" &&
      google_pubsub_subscription.forward_push[0].push_config[0].oidc_token[0].service_account_email == google_service_account.job["push"].email
    )
    error_message = "Deliveries are pushed to the service, as the push account."
  }

  assert {
    condition     = google_pubsub_subscription.dead_letter_push[0].push_config[0].push_endpoint == "https://ingest.example/dead-letters"
    error_message = "The service records deliveries that Pub/Sub gave up."
  }

  assert {
    condition = (
      google_pubsub_subscription.forward_push[0].retry_policy[0].minimum_backoff == "5s" &&
      google_pubsub_subscription.forward_push[0].retry_policy[0].maximum_backoff == "600s" &&
      google_pubsub_subscription.forward_push[0].dead_letter_policy[0].dead_letter_topic == google_pubsub_topic.topic["dead-letter"].id &&
      google_pubsub_subscription.forward_push[0].dead_letter_policy[0].max_delivery_attempts == 30 &&
      google_pubsub_subscription.push["events"].dead_letter_policy[0].max_delivery_attempts == 20
    )
    error_message = "Deliveries have retries of their own and the same dead letters."
  }

  assert {
    condition     = google_pubsub_topic_iam_member.forwards[0].topic == google_pubsub_topic.topic["forward"].id && google_pubsub_topic_iam_member.forwards[0].member == "serviceAccount:${google_service_account.job["ingest"].email}"
    error_message = "The ingest account publishes deliveries."
  }

  assert {
    condition     = google_pubsub_subscription_iam_member.forward_dead_lettered[0].subscription == "dicomlake-forward-push" && google_pubsub_subscription_iam_member.forward_dead_lettered[0].role == "roles/pubsub.subscriber"
    error_message = "Pub/Sub takes dead letters off the subscription."
  }

  assert {
    condition     = google_bigquery_table_iam_member.appends["deliveries"].member == "serviceAccount:${google_service_account.job["ingest"].email}"
    error_message = "The ingest account records deliveries."
  }

  assert {
    condition     = length([for one in google_monitoring_alert_policy.alert["backlog"].conditions : one if strcontains(one.condition_threshold[0].filter, "dicomlake-forward-push")]) == 1
    error_message = "Deliveries that wait too long raise an alert."
  }
}

run "deidentify" {
  variables {
    browse     = { invokers = ["user:jane@example.org"] }
    deidentify = { key = "projects/demo/secrets/deidentify", collections = { trial = "research" } }
  }

  assert {
    condition = alltrue([
      for service in values(google_cloud_run_v2_service.service) : alltrue([
        for name, value in {
          DEIDENTIFY__PROFILE     = "basic"
          DEIDENTIFY__COLLECTIONS = jsonencode({ trial = "research" })
          DEIDENTIFY__PIXELS      = "false"
          DEIDENTIFY__NAMES       = "hash"
        } :
        contains([for env in service.template[0].containers[0].env : "${env.name}=${env.value}" if env.value != null], "DICOMLAKE__${name}=${value}")
      ])
    ])
    error_message = "Both services know the profile."
  }

  assert {
    condition = alltrue([
      for service in values(google_cloud_run_v2_service.service) :
      [for env in service.template[0].containers[0].env : env.value_source[0].secret_key_ref[0].secret if env.name == "DICOMLAKE__DEIDENTIFY__KEY"] == ["projects/demo/secrets/deidentify"]
    ])
    error_message = "The key comes from Secret Manager."
  }

  assert {
    condition     = toset(keys(google_secret_manager_secret_iam_member.deidentifies)) == toset(["ingest", "browse"])
    error_message = "Both accounts may read the key, and no other does."
  }

  assert {
    condition     = length([for key, one in google_storage_bucket_iam_member.names : key if startswith(key, "browse-reads-")]) == 0
    error_message = "The browse account cannot read originals."
  }
}

run "a_job_that_lists" {
  variables {
    backfill = {}
    settings = { PREVIEW__MAX_SIDE = "512" }
    network  = { network = "vpc" }
  }

  assert {
    condition = (
      google_cloud_run_v2_job.backfill[0].name == "dicomlake-backfill" &&
      google_cloud_run_v2_job.backfill[0].location == "us-central1" &&
      !google_cloud_run_v2_job.backfill[0].deletion_protection &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].service_account == google_service_account.job["backfill"].email &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].timeout == "86400s" &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].max_retries == 0 &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].vpc_access[0].network_interfaces[0].network == "vpc" &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].image == var.image &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].args == tolist(["backfill", "gs://demo-dicomlake-landing/"]) &&
      google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "1", memory = "512Mi" })
    )
    error_message = "A job runs the lister with the image of the service, once, under its own account."
  }

  assert {
    condition = { for env in google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].env : env.name => env.value } == {
      DICOMLAKE__ARTIFACTS__IMAGES      = "images/"
      DICOMLAKE__ARTIFACTS__METADATA    = "metadata/"
      DICOMLAKE__ARTIFACTS__URL         = "gs://demo-dicomlake-artifacts"
      DICOMLAKE__BACKFILL__TOPIC        = google_pubsub_topic.topic["backfill"].id
      DICOMLAKE__BUS__DEAD_LETTER_TOPIC = google_pubsub_topic.topic["dead-letter"].id
      DICOMLAKE__BUS__URL               = "pubsub:${google_pubsub_topic.topic["events"].id}"
      DICOMLAKE__PREVIEW__MAX_SIDE      = "512"
      DICOMLAKE__SOURCE__BUCKETS        = "[]"
      DICOMLAKE__SOURCE__EVENTS         = "[\"OBJECT_FINALIZE\",\"OBJECT_DELETE\",\"OBJECT_ARCHIVE\",\"OBJECT_METADATA_UPDATE\"]"
      DICOMLAKE__SOURCE__URL            = "gs://demo-dicomlake-landing"
      DICOMLAKE__SOURCE__WRITE_PREFIX   = ""
      DICOMLAKE__WAREHOUSE__URL         = "bigquery:demo.dicomlake"
    }
    error_message = "It is told where the lake is, and no more: it takes no requests."
  }

  assert {
    condition = (
      [for one in google_pubsub_topic_iam_member.backfill_publishes : [one.topic, one.role, one.member]] == [[google_pubsub_topic.topic["backfill"].id, "roles/pubsub.publisher", "serviceAccount:${google_service_account.job["backfill"].email}"]] &&
      [for one in google_bigquery_table_iam_member.backfill_records : [one.table_id, one.role, one.member]] == [["jobs", "roles/bigquery.dataEditor", "serviceAccount:${google_service_account.job["backfill"].email}"]] &&
      { for one in google_bigquery_table_iam_member.backfill_reads : one.table_id => "${one.role} ${one.member}" } == {
        for table in ["dead_letter", "dead_letters", "failures", "instances", "instances_current", "removed"] :
        table => "roles/bigquery.dataViewer serviceAccount:${google_service_account.job["backfill"].email}"
      } &&
      google_project_iam_member.jobs["backfill"].role == "roles/bigquery.jobUser"
    )
    error_message = "It publishes to its lane, records where it stands, and reads which rows there are."
  }

  assert {
    condition     = google_storage_bucket_iam_binding.basic_roles["landing legacyBucketReader"].members == toset(["projectOwner:demo", "serviceAccount:${google_service_account.job["backfill"].email}"]) && alltrue([for one in google_storage_bucket_iam_member.names : one.member != "serviceAccount:${google_service_account.job["backfill"].email}"])
    error_message = "It lists the landing bucket and reads no object."
  }

  assert {
    condition     = output.backfill == "gcloud run jobs execute dicomlake-backfill --project=demo --region=us-central1"
    error_message = "The output says how to run it."
  }
}

run "a_job_that_lists_buckets_that_exist" {
  variables {
    landing          = { existing = ["pacs-a", "pacs-b"], prefixes = ["ct/"] }
    backfill         = { args = ["backfill", "gs://pacs-b/ct/", "--rate=2000"], timeout_s = 604800 }
    deidentify       = { key = "projects/demo/secrets/deidentify" }
    service_accounts = { backfill = "lister@hub.iam.gserviceaccount.com" }
  }

  assert {
    condition     = toset([for one in google_storage_bucket_iam_member.listed : "${one.bucket} ${one.role}" if one.member == "serviceAccount:lister@hub.iam.gserviceaccount.com"]) == toset(["pacs-a roles/storage.legacyBucketReader", "pacs-b roles/storage.legacyBucketReader"])
    error_message = "The existing account lists both."
  }

  assert {
    condition     = google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].args == tolist(["backfill", "gs://pacs-b/ct/", "--rate=2000"]) && google_cloud_run_v2_job.backfill[0].template[0].template[0].timeout == "604800s"
    error_message = "It runs what it is told to."
  }

  assert {
    condition = (
      [for env in google_cloud_run_v2_job.backfill[0].template[0].template[0].containers[0].env : env.value_source[0].secret_key_ref[0].secret if env.name == "DICOMLAKE__DEIDENTIFY__KEY"] == ["projects/demo/secrets/deidentify"] &&
      google_secret_manager_secret_iam_member.deidentifies["backfill"].member == "serviceAccount:lister@hub.iam.gserviceaccount.com"
    )
    error_message = "In a lake without names it hashes those that it lists, as the rows do."
  }
}
