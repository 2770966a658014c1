# What `terraform plan` refuses, before anything is made. Each variable of a run is wrong by itself unless the run
# expects no failure of it.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "google-beta" {}

variables {
  project_id = "demo"
  image      = "example/dicomlake@sha256:0"
}

run "names_and_ids_of_a_wrong_form" {
  command = plan

  variables {
    project_id  = "My Project" # a name, no id
    image       = " "
    region      = "us-central1-a"           # a zone
    name        = "a-name-that-is-too-long" # accounts have at most 30 characters
    topic       = "changes"                 # not the full name
    dataset     = { id = "a-b" }
    kms         = { key = "projects/p/locations/l/keyRings/r" } # a key ring
    settings    = { MAX_SIDE = "1" }                            # no section
    trigger     = "kafka"
    event_types = ["OBJECT_FINALIZE", "OBJECT_RENAME"]
  }

  expect_failures = [var.project_id, var.image, var.region, var.name, var.topic, var.dataset, var.kms, var.settings, var.trigger, var.event_types]
}

run "numbers_out_of_range" {
  command = plan

  variables {
    delivery = { max_attempts = 4 }
    landing  = { soft_delete_days = 1 }
    alerts   = { server_error_rate = 5 } # per cent
    browse   = { memory = "512M" }
  }

  expect_failures = [var.delivery, var.landing, var.alerts, var.browse]
}

run "a_request_that_outlives_its_delivery" {
  command = plan

  variables {
    artifacts = { soft_delete_days = 91 }
    ingest    = { timeout_s = 600 }
  }

  expect_failures = [var.artifacts, var.ingest]
}

run "two_answers_to_one_question" {
  command = plan

  variables {
    landing  = { bucket = "a", existing = ["b"] }
    network  = { connector = "a", subnetwork = "b" }
    settings = { SOURCE__URL = "gs://other" } # follows from landing
    delivery = { min_backoff_s = 20, max_backoff_s = 10 }
  }

  expect_failures = [var.landing, var.network, var.settings, var.delivery]
}

run "previews_for_everybody" {
  command = plan

  variables {
    artifacts = { images = "images" } # no slash: would also begin images2/
    browse    = { invokers = ["allUsers"] }
    network   = {} # neither connector nor network
    delivery  = { ack_deadline_s = 601 }
  }

  expect_failures = [var.artifacts, var.browse, var.network, var.delivery]
}

run "objects_announced_twice" {
  command = plan

  variables {
    landing  = { prefixes = ["in/", "in/ct/"] }
    delivery = { retention_days = 32 }
  }

  expect_failures = [var.landing, var.delivery]
}

# "ct" would announce ct_001.dcm, which no folder ct/ holds: the service would ack it and the object would be lost.
run "a_prefix_that_is_no_folder" {
  command = plan

  variables {
    landing = { prefixes = ["ct"] }
    topic   = "changes"
  }

  expect_failures = [var.landing, var.topic]
}

run "a_prefix_that_begins_with_a_slash" {
  command = plan

  variables {
    landing = { prefixes = ["/in/"] }
    dataset = { readers = ["allAuthenticatedUsers"] }
  }

  expect_failures = [var.landing, var.dataset]
}

run "a_prefix_with_two_slashes" {
  command = plan

  variables {
    landing = { prefixes = ["in//x/", "ct/"] }
    dataset = { readers = ["user:a@example.org"], create = false }
  }

  expect_failures = [var.landing, var.dataset]
}

run "owners_of_a_bucket_that_is_made_here" {
  command = plan

  variables {
    landing  = { projects = ["other-project"] }
    settings = { MAX_SIDE = "1" }
  }

  expect_failures = [var.landing, var.settings]
}

run "a_bucket_of_a_project_that_may_not_publish" {
  variables {
    landing = { existing = ["pacs"] }
  }

  override_data {
    target = data.google_storage_bucket.existing
    values = { project_number = 999 }
  }

  expect_failures = [google_storage_notification.landing]
}

run "a_filter_of_257_bytes" {
  command = plan

  variables {
    delivery = { ignored_prefixes = ["gcloud/tmp/parallel_composite_uploads/", "/gsutil/tmp/parallel_composite_uploads/", "a/prefix/as/long/as/it/may/be/to/fit/in/a/filter/of/25s/"] }
  }

  expect_failures = [google_pubsub_subscription.push]
}

run "output_under_the_input" {
  command = plan

  variables {
    landing   = { bucket = "lake", prefixes = ["in/"] }
    artifacts = { bucket = "lake", images = "in/images/" }
    delivery  = { ignored_prefixes = ["a\"b"] } # a quote would end the filter's string
  }

  expect_failures = [var.artifacts, var.delivery]
}

run "input_under_the_output" {
  command = plan

  variables {
    ingest    = { cpu = 3 }
    landing   = { bucket = "lake", prefixes = ["images/new/"] }
    artifacts = { bucket = "lake" }
  }

  expect_failures = [var.ingest, var.artifacts]
}

run "one_bucket_without_prefixes" {
  command = plan

  variables {
    delivery  = { max_attempts = 101 }
    artifacts = { bucket = "demo-dicomlake-landing" } # the default name of the landing bucket
  }

  expect_failures = [var.delivery, var.artifacts]
}

run "eventarc_with_prefixes" {
  command = plan

  variables {
    event_types = ["OBJECT_FINALIZE", "OBJECT_DELETE"] # the bucket is versioned: deletes are OBJECT_ARCHIVE
    trigger     = "eventarc"
    landing     = { prefixes = ["in/"] }
  }

  expect_failures = [var.trigger, var.event_types]
}

run "workers_without_memory" {
  command = plan

  variables {
    ingest = { cpu = 4, memory = "512Mi" }
    browse = { memory = "400Mi" } # gen2 needs 512
  }

  expect_failures = [google_cloud_run_v2_service.service]
}

run "uploads_that_nobody_is_told_of" {
  command = plan

  variables {
    landing = { prefixes = ["ct/", "mr/"], write_prefix = "uploads/" } # below neither
    browse  = { roles = { "*" = "user" }, uploads = true }
  }

  expect_failures = [google_cloud_run_v2_service.service["browse"]]
}

run "uploads_that_are_never_pushed" {
  command = plan

  variables {
    landing  = { write_prefix = "tmp/uploads/" }
    delivery = { ignored_prefixes = ["tmp/"] }
    browse   = { roles = { "*" = "user" }, uploads = true }
  }

  expect_failures = [google_cloud_run_v2_service.service["browse"]]
}

run "uploads_without_anyone_who_may" {
  command = plan

  variables {
    landing = { write_prefix = "/uploads" }
    browse  = { roles = { "*" = "read-only" }, uploads = true }
  }

  expect_failures = [var.landing, var.browse]
}

run "an_admin_service_without_admins" {
  command = plan

  variables {
    browse   = { roles = { "*" = "user" }, admin = true }
    settings = { API__USERS = "none", BROWSE__UPLOADS = "true" } # follow from browse
  }

  expect_failures = [var.browse, var.settings]
}

run "iap_without_roles" {
  command = plan

  variables {
    browse = { users = "iap", invokers = ["domain:example.org"] }
  }

  expect_failures = [var.browse]
}

run "an_issuer_that_is_not_named" {
  command = plan

  variables {
    browse = { users = "oidc", roles = { "*" = "read-only" } }
  }

  expect_failures = [var.browse]
}

run "an_issuer_beside_invokers" {
  command = plan

  variables {
    browse = {
      users    = "oidc"
      roles    = { "*" = "read-only" }
      invokers = ["domain:example.org"]
      oidc     = { issuer = "https://id.example.org", client_id = "lake", users_key = "key" }
    }
  }

  expect_failures = [var.browse]
}

run "a_secret_by_value" {
  command = plan

  variables {
    browse = {
      users = "oidc"
      roles = { "*" = "read-only" }
      oidc  = { issuer = "https://id.example.org", client_id = "lake", users_key = "s3cret value" }
    }
  }

  expect_failures = [var.browse]
}

run "a_role_that_is_none" {
  command = plan

  variables {
    browse = { roles = { "*" = "owner" } }
  }

  expect_failures = [var.browse]
}

run "a_filter_of_256_bytes_is_fine" {
  command = plan

  variables {
    delivery = { ignored_prefixes = ["gcloud/tmp/parallel_composite_uploads/", "/gsutil/tmp/parallel_composite_uploads/", "a/prefix/as/long/as/it/may/be/to/fit/in/a/filter/of/25/"] }
  }

  assert {
    condition     = length(google_pubsub_subscription.push["events"].filter) == 256
    error_message = "The longest filter is taken."
  }
}

run "targets_of_announcements_that_are_none" {
  command = plan

  variables {
    announce_urls             = ["http://example.org/hook"]
    announce_dead_letter_urls = ["kafka://host"]
    announce_secrets          = { kafka = "secret" }
    announce_settle_s         = -1
  }

  expect_failures = [var.announce_urls, var.announce_dead_letter_urls, var.announce_secrets, var.announce_settle_s]
}

run "text_in_pictures_needs_memory" {
  command = plan

  variables {
    deidentify = { key = "projects/demo/secrets/deidentify", pixels = true }
  }

  expect_failures = [google_cloud_run_v2_service.service]
}

run "a_job_that_does_something_else" {
  command = plan

  variables {
    backfill = { args = ["serve"] }
    settings = { BACKFILL__TOPIC = "projects/other/topics/backfill" } # follows from the lane
  }

  expect_failures = [var.backfill, var.settings]
}

run "a_job_longer_than_a_week" {
  command = plan

  variables {
    backfill = { timeout_s = 604801 }
  }

  expect_failures = [var.backfill]
}

run "receivers_without_encryption" {
  command = plan

  variables {
    forward = { urls = ["http://pictures.example.org/in"] }
  }

  expect_failures = [var.forward]
}

run "receivers_in_files" {
  command = plan

  variables {
    forward = { urls = ["file:./encoded"] }
  }

  expect_failures = [var.forward]
}

run "a_token_by_value" {
  command = plan

  variables {
    forward = { urls = ["https://pictures.example.org/in"], bearer_secret = "s3cret" }
  }

  expect_failures = [var.forward]
}
