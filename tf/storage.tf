locals {
  landing_buckets = length(var.landing.existing) > 0 ? var.landing.existing : [
    coalesce(var.landing.bucket, "${var.project_id}-${var.name}-landing")
  ]
  artifacts_bucket = coalesce(var.artifacts.bucket, "${var.project_id}-${var.name}-artifacts")
  bucket_location  = coalesce(var.landing.location, var.region)

  buckets = {
    for key, bucket in {
      landing = {
        create           = length(var.landing.existing) == 0
        name             = local.landing_buckets[0]
        versioning       = var.landing.versioning
        soft_delete_days = var.landing.soft_delete_days
        lifecycle = concat(
          [for rule in var.landing.lifecycle : merge(rule, { prefixes = null })],
          [for rule in local.cache_lifecycle : rule if local.artifacts_bucket == local.landing_buckets[0]],
        )
      }
      artifacts = {
        create           = var.artifacts.bucket == null
        name             = local.artifacts_bucket
        versioning       = var.artifacts.versioning
        soft_delete_days = var.artifacts.soft_delete_days
        lifecycle        = local.cache_lifecycle
      }
    } : key => bucket if bucket.create
  }

  notifications = {
    for pair in setproduct(local.landing_buckets, length(var.landing.prefixes) > 0 ? var.landing.prefixes : [""]) :
    "${pair[0]}/${pair[1]}" => { bucket = pair[0], prefix = pair[1] } if var.trigger == "pubsub"
  }

  # In a bucket that holds other things too, a grant is for the names under our prefixes. Such a grant lists
  # nothing, and to who may not list, Cloud Storage answers 403 and not 404 for an object that is gone: so `listed`.
  artifacts_names = { for job, further in { ingest = [], browse = [local.cache] } : job =>
    var.artifacts.bucket == null ? [] : concat([var.artifacts.images, var.artifacts.metadata], local.deidentify_names, further)
  }
  cache = "cache/"
  # Answers kept for browsers; nothing names an old one, so only age removes them.
  cache_lifecycle = [{ age_days = 7, storage_class = null, prefixes = [local.cache] }]
  bucket_grants = merge(
    {
      for pair in setproduct(local.wanted_jobs, local.landing_buckets) : "${pair[0]}-reads-${pair[1]}" => {
        job = pair[0], bucket = pair[1], role = "roles/storage.objectViewer", names = var.landing.prefixes
      } if pair[0] == "ingest" || (pair[0] == "browse" && var.deidentify == null)
    },
    {
      for job in keys(local.services) : "${job}-uses-${local.artifacts_bucket}" => {
        job    = job
        bucket = local.artifacts_bucket
        role   = job == "ingest" ? "roles/storage.objectUser" : "roles/storage.objectViewer"
        names  = local.artifacts_names[job]
      }
    },
    # All that the browse account may write. A STOW may replace an instance, for which Cloud Storage asks the right
    # to delete; a versioned bucket keeps what was replaced.
    { for key, grant in {
      "browse-keeps-answers-in-${local.artifacts_bucket}" = {
        wanted = var.browse != null, bucket = local.artifacts_bucket, names = [local.cache]
      }
      "browse-lands-in-${local.landing_buckets[0]}" = {
        wanted = try(var.browse.uploads, false), bucket = local.landing_buckets[0], names = compact([local.write_names])
      }
    } : key => merge(grant, { job = "browse", role = "roles/storage.objectUser" }) if grant.wanted },
  )
  lists              = "roles/storage.legacyBucketReader"
  restricted_buckets = var.restrict_basic_roles ? [for bucket in values(local.buckets) : bucket.name] : []
  listed = merge(
    {
      for pair in distinct([for one in values(local.bucket_grants) : [one.job, one.bucket]]) :
      join("-lists-", pair) => { job = pair[0], bucket = pair[1] } if alltrue([
        for one in values(local.bucket_grants) : length(one.names) > 0 if[one.job, one.bucket] == pair
      ])
    },
    { for bucket in local.landing_buckets : "backfill-lists-${bucket}" => { job = "backfill", bucket = bucket } if var.backfill != null },
  )
}

resource "google_storage_bucket" "bucket" {
  #checkov:skip=CKV_GCP_78: landing is versioned by default; artifacts are written once and can be made again
  for_each = local.buckets

  project                     = var.project_id
  name                        = each.value.name
  location                    = local.bucket_location
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  versioning {
    enabled = each.value.versioning
  }

  soft_delete_policy {
    retention_duration_seconds = each.value.soft_delete_days * 86400
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.versioning ? [var.landing.noncurrent_days] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        days_since_noncurrent_time = lifecycle_rule.value
        with_state                 = "ARCHIVED"
      }
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.lifecycle
    content {
      action {
        type          = lifecycle_rule.value.storage_class == null ? "Delete" : "SetStorageClass"
        storage_class = lifecycle_rule.value.storage_class
      }
      condition {
        age            = lifecycle_rule.value.age_days
        with_state     = "LIVE"
        matches_prefix = lifecycle_rule.value.prefixes
      }
    }
  }

  dynamic "logging" {
    for_each = var.landing.log_bucket[*]
    content {
      log_bucket = logging.value
    }
  }

  dynamic "encryption" {
    for_each = local.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}

resource "google_storage_notification" "landing" {
  for_each = local.notifications

  bucket             = each.value.bucket
  topic              = local.topic
  payload_format     = "JSON_API_V1"
  event_types        = var.event_types
  object_name_prefix = each.value.prefix == "" ? null : each.value.prefix

  # Last of all: what is published before the push subscription exists, nobody receives, and what fails before the
  # dead-letter topic has a subscription and its grants is given up without a trace.
  depends_on = [
    google_pubsub_subscription.dead_letter,
    google_pubsub_subscription.push,
    google_pubsub_subscription_iam_member.dead_lettered,
    google_pubsub_topic_iam_member.dead_letters,
    google_pubsub_topic_iam_member.storage_publishes,
    google_storage_bucket.bucket,
  ]

  lifecycle {
    precondition {
      condition = !contains(var.landing.existing, each.value.bucket) || contains(
        [for agent in data.google_storage_project_service_account.owner : agent.email_address],
        "service-${try(data.google_storage_bucket.existing[each.value.bucket].project_number, "")}@gs-project-accounts.iam.gserviceaccount.com"
      )
      error_message = "Bucket ${each.value.bucket} belongs to a project that is neither project_id nor in landing.projects; its Cloud Storage agent could not publish to the topic."
    }
  }
}

# A change of storage class is a metadata update: the service would read each object again, for which the colder
# classes charge.
check "colder_classes" {
  assert {
    condition     = !contains(var.event_types, "OBJECT_METADATA_UPDATE") || alltrue([for rule in var.landing.lifecycle : rule.storage_class == null])
    error_message = "landing.lifecycle moves objects to another storage class, and each move is an OBJECT_METADATA_UPDATE that reads the object again. Leave that type out of event_types, or expect the retrieval charges."
  }
}

data "google_storage_bucket" "existing" {
  for_each = toset(var.trigger == "pubsub" ? var.landing.existing : [])

  name = each.key

  depends_on = [google_project_service.api]
}

# A new bucket admits basic roles: every viewer of the project could read every patient. These bindings own the four
# legacy roles through which it does that, and leave them to owners and to the accounts that need to list.
resource "google_storage_bucket_iam_binding" "basic_roles" {
  for_each = {
    for pair in setproduct(var.restrict_basic_roles ? keys(local.buckets) : [], [
      "legacyBucketOwner", "legacyBucketReader", "legacyObjectOwner", "legacyObjectReader"
    ]) : join(" ", pair) => { bucket = local.buckets[pair[0]].name, role = "roles/storage.${pair[1]}" }
  }

  bucket = each.value.bucket
  role   = each.value.role
  members = concat(["projectOwner:${var.project_id}"], each.value.role == local.lists ? [
    for one in values(local.listed) : local.members[one.job] if one.bucket == each.value.bucket
  ] : [])

  depends_on = [google_storage_bucket.bucket]
}

resource "google_storage_bucket_iam_member" "names" {
  for_each = local.bucket_grants

  bucket = each.value.bucket
  role   = each.value.role
  member = local.members[each.value.job]

  dynamic "condition" {
    for_each = length(each.value.names) > 0 ? [each.value.names] : []
    content {
      title = "${var.name}-names"
      expression = join(" || ", [
        for name in condition.value :
        "resource.name.startsWith(\"projects/_/buckets/${each.value.bucket}/objects/${name}\")"
      ])
    }
  }

  depends_on = [google_storage_bucket.bucket]
}

resource "google_storage_bucket_iam_member" "listed" {
  for_each = { for key, one in local.listed : key => one if !contains(local.restricted_buckets, one.bucket) }

  bucket = each.value.bucket
  role   = local.lists
  member = local.members[each.value.job]

  depends_on = [google_storage_bucket.bucket]
}
