locals {
  services = { for key, service in { ingest = var.ingest, browse = var.browse } : key => service if service != null }
  memory_mib = {
    for key, service in local.services :
    key => tonumber(trim(service.memory, "GMi")) * (endswith(service.memory, "Gi") ? 1024 : 1)
  }
  # One worker a CPU. The server has 192 MiB for itself and its libraries, and an eighth of all for objects in flight.
  inflight_mib = { for key, mib in local.memory_mib : key => floor(mib / 8) }
  worker_mib = {
    for key, service in local.services :
    key => floor((local.memory_mib[key] - 192 - local.inflight_mib[key]) / service.cpu)
  }

  one_landing_prefix = length(var.landing.prefixes) == 1 ? trim(var.landing.prefixes[0], "/") : ""
  # What the names of uploads begin with in their bucket.
  write_names = "${join("", [for one in compact([local.one_landing_prefix]) : "${one}/"])}${var.landing.write_prefix}"

  # The audience of the push account's tokens. Not the address of the service: that is not known before it is there.
  audience = "${var.name}-ingest.${var.project_id}"

  # Cloud Run lets only the push account in; the service checks the same again, for the day that a grant is too
  # wide. Eventarc's tokens have the address as their audience, so there Cloud Run alone decides, as for browse.
  auth = {
    ingest = merge({ API__AUTH = "platform" }, { for key, value in {
      API__AUTH             = "iam"
      API__AUDIENCE         = local.audience
      API__SERVICE_ACCOUNTS = jsonencode([local.emails.push])
    } : key => value if var.trigger == "pubsub" })
    browse = merge(
      {
        API__AUTH       = "platform"
        API__USERS      = try(var.browse.users, "platform")
        API__ROLES      = jsonencode(try(var.browse.roles, {}))
        API__PUBLIC_URL = try(var.browse.public_url, "")
        BROWSE__UPLOADS = tostring(try(var.browse.uploads, false))
        # Cloud Run takes no larger request; larger files go from the browser straight to the bucket.
        BROWSE__MAX_UPLOAD_BYTES = "33554432"
      },
      { for key, value in {
        API__USERS_AUDIENCE = "/projects/${local.number}/locations/${var.region}/services/${var.name}-browse"
      } : key => value if local.iap },
      { for key, value in {
        API__OIDC_ISSUER    = try(var.browse.oidc.issuer, "")
        API__OIDC_CLIENT_ID = try(var.browse.oidc.client_id, "")
        API__USERS_AUDIENCE = try(var.browse.oidc.client_id, "")
      } : key => value if local.oidc },
    )
  }
  iap  = try(var.browse.users == "iap", false)
  oidc = try(var.browse.users == "oidc", false)

  # Of the browse service, by the name of the setting.
  secrets = { for key, secret in {
    API__OIDC_CLIENT_SECRET = try(var.browse.oidc.client_secret, null)
    API__USERS_KEY          = try(var.browse.oidc.users_key, null)
  } : key => startswith(secret, "projects/") ? secret : "projects/${var.project_id}/secrets/${secret}" if secret != null }

  # What follows from resources and variables, the same for all services.
  wired = {
    API__HOST              = "0.0.0.0"
    SOURCE__URL            = trimsuffix("gs://${local.landing_buckets[0]}/${local.one_landing_prefix}", "/")
    SOURCE__BUCKETS        = jsonencode(slice(local.landing_buckets, 1, length(local.landing_buckets)))
    SOURCE__EVENTS         = jsonencode(var.event_types)
    SOURCE__WRITE_PREFIX   = var.landing.write_prefix
    ARTIFACTS__URL         = "gs://${local.artifacts_bucket}"
    ARTIFACTS__IMAGES      = var.artifacts.images
    ARTIFACTS__METADATA    = var.artifacts.metadata
    WAREHOUSE__URL         = "bigquery:${local.dataset_path}"
    BUS__URL               = "pubsub:${local.topic}"
    BUS__DEAD_LETTER_TOPIC = local.dead_letter_topic
    BACKFILL__TOPIC        = local.lanes.backfill.topic
  }
}

resource "google_cloud_run_v2_service" "service" {
  for_each = local.services

  project          = var.project_id
  location         = var.region
  name             = "${var.name}-${each.key}"
  labels           = var.labels
  ingress          = each.value.ingress
  custom_audiences = each.key == "ingest" ? [local.audience] : null
  iap_enabled      = each.key == "browse" && local.iap ? true : null
  # With OIDC people come without a token of Google's, and the service itself checks who they are.
  invoker_iam_disabled = each.key == "browse" && local.oidc ? true : null
  deletion_protection  = false # it holds no data; protection would forbid replacing one whose first start failed

  template {
    service_account                  = local.emails[each.key]
    timeout                          = "${each.value.timeout_s}s"
    max_instance_request_concurrency = each.value.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    encryption_key                   = local.kms_key
    labels                           = var.labels

    scaling {
      min_instance_count = each.value.min_instances
      max_instance_count = each.value.max_instances
    }

    dynamic "vpc_access" {
      for_each = var.network[*]
      content {
        connector = vpc_access.value.connector
        egress    = vpc_access.value.egress
        dynamic "network_interfaces" {
          for_each = vpc_access.value.connector == null ? [vpc_access.value] : []
          content {
            network    = network_interfaces.value.network
            subnetwork = network_interfaces.value.subnetwork
            tags       = network_interfaces.value.tags
          }
        }
      }
    }

    containers {
      image = var.image

      resources {
        limits            = { cpu = tostring(each.value.cpu), memory = each.value.memory }
        cpu_idle          = true # billed by request: nothing runs after the answer
        startup_cpu_boost = true
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 60
        http_get {
          path = "/health"
        }
      }

      dynamic "env" {
        for_each = merge(
          {
            DELIVERY__DEADLINE_S    = tostring(floor(each.value.timeout_s * 0.9))
            WORKERS__COUNT          = tostring(each.value.cpu)
            WORKERS__INFLIGHT_BYTES = tostring(local.inflight_mib[each.key] * 1048576)
            WORKERS__MEMORY_BYTES   = tostring(local.worker_mib[each.key] * 1048576)
          },
          var.settings,
          local.wired,
          local.auth[each.key],
          each.key == "ingest" ? merge(local.announce_settings, local.forward_settings) : {},
          local.deidentify_settings,
          { API__SERVE = each.key },
        )
        content {
          name  = "DICOMLAKE__${env.key}"
          value = env.value
        }
      }

      dynamic "env" {
        for_each = merge(
          each.key == "browse" ? local.secrets : merge(local.announce_secrets, local.forward_secrets),
          local.deidentify_secrets,
        )
        content {
          name = "DICOMLAKE__${env.key}"
          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }
    }
  }

  lifecycle {
    # An upload that nobody is told of would never become a row.
    precondition {
      condition = !(each.key == "browse" && try(var.browse.uploads, false)) || (
        (length(var.landing.prefixes) == 0 || anytrue([
          for prefix in var.landing.prefixes : startswith(local.write_names, prefix)
        ])) && !anytrue([for prefix in var.delivery.ignored_prefixes : startswith(local.write_names, prefix)])
      )
      error_message = "Uploads are announced only below one of landing.prefixes, and not below delivery.ignored_prefixes: set landing.write_prefix to a folder below one of landing.prefixes, such as ct/uploads/."
    }

    precondition {
      condition     = each.key != "ingest" || local.memory_mib[each.key] >= 2048 || !try(var.deidentify.pixels, false)
      error_message = "deidentify.pixels needs ingest.memory of at least 2Gi: finding text takes up to 1 GiB a worker."
    }
    precondition {
      condition     = local.memory_mib[each.key] >= 512 && local.worker_mib[each.key] >= 128
      error_message = "memory is at least 512Mi, what gen2 needs, and leaves 128Mi a CPU beside the server (192Mi and an eighth)."
    }
  }

  # An instance may start at once, and it needs what it opens.
  depends_on = [
    google_bigquery_table_iam_member.appends,
    google_kms_crypto_key_iam_member.agent,
    google_project_service.api,
    google_pubsub_topic_iam_member.announces,
    google_pubsub_topic_iam_member.dead_letters,
    google_pubsub_topic_iam_member.forwards,
    google_secret_manager_secret_iam_member.browse_reads,
    google_secret_manager_secret_iam_member.announces,
    google_secret_manager_secret_iam_member.deidentifies,
    google_secret_manager_secret_iam_member.forwards,
    google_storage_bucket_iam_member.names,
  ]
}

resource "google_cloud_run_v2_service_iam_member" "push_invokes" {
  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_service.service["ingest"].name
  role     = "roles/run.invoker"
  member   = local.members.push
}

# Whom Cloud Run lets in: those named, or IAP, which then lets in those named.
resource "google_cloud_run_v2_service_iam_member" "browse_invokes" {
  for_each = local.iap ? { iap = local.agents.iap } : {
    for member in try(var.browse.invokers, []) : member => member
  }

  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_service.service["browse"].name
  role     = "roles/run.invoker"
  member   = each.value

  depends_on = [google_project_service_identity.agent]
}

resource "google_iap_web_cloud_run_service_iam_member" "browse_enters" {
  for_each = toset(local.iap ? var.browse.invokers : [])

  project                = var.project_id
  location               = var.region
  cloud_run_service_name = google_cloud_run_v2_service.service["browse"].name
  role                   = "roles/iap.httpsResourceAccessor"
  member                 = each.value
}

resource "google_secret_manager_secret_iam_member" "browse_reads" {
  for_each = local.secrets

  project   = split("/", each.value)[1]
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members.browse

  depends_on = [google_project_service.api]
}
