# What flows where: landing bucket, notifications, delivery, artifacts, tables.

variable "announce_dead_letter_urls" {
  description = "Targets of dead letters, written like announce_urls."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for url in var.announce_dead_letter_urls : can(regex("^(kafka://.+/.+|pubsub:projects/[^/]+/topics/[^/]+|https://.+)$", url))
    ])
    error_message = "URLs are kafka://host:port/topic, pubsub:projects/P/topics/T or https://host/path."
  }
}

variable "announce_secrets" {
  description = "Secrets of Secret Manager, projects/P/secrets/S, whose latest versions are the settings announce.kafka and announce.headers as JSON."
  type = object({
    kafka   = optional(string)
    headers = optional(string)
  })
  default = {}

  validation {
    condition = alltrue([
      for secret in values(var.announce_secrets) : secret == null || can(regex("^projects/[^/]+/secrets/[^/]+$", secret))
    ])
    error_message = "Secrets are projects/P/secrets/S."
  }
}

variable "deidentify" {
  description = "De-identify everything that leaves the lake: profile basic, research or internal; collections: first path segment -> profile; key: the secret projects/P/secrets/S of at least 32 bytes; pixels: also remove burned-in text, with an image that has dicomlake[pixels]; names: hash or keep. null = off. A lake with rows changes its profile by `dicomlake deidentify --adopt`."
  type = object({
    profile     = optional(string, "basic")
    collections = optional(map(string), {})
    key         = string
    pixels      = optional(bool, false)
    names       = optional(string, "hash")
  })
  default = null

  validation {
    condition = var.deidentify == null ? true : alltrue([
      for profile in concat([var.deidentify.profile], values(var.deidentify.collections)) :
      contains(["basic", "research", "internal"], profile)
    ]) && can(regex("^projects/[^/]+/secrets/[^/]+$", var.deidentify.key)) && contains(["hash", "keep"], var.deidentify.names)
    error_message = "Profiles are basic, research or internal; key is projects/P/secrets/S; names is hash or keep."
  }
}

variable "announce_settle_s" {
  description = "Announce a study as settled when none of its instances has arrived for so many seconds, looked at every 15 minutes; 0 = never."
  type        = number
  default     = 300

  validation {
    condition     = var.announce_settle_s >= 0 && var.announce_settle_s <= 604800
    error_message = "announce_settle_s is 0 to 604800, a week."
  }
}

variable "announce_urls" {
  description = "Who is told of every object that was stored or removed: kafka://host:port/topic, pubsub:projects/P/topics/T or https://host/path."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for url in var.announce_urls : can(regex("^(kafka://.+/.+|pubsub:projects/[^/]+/topics/[^/]+|https://.+)$", url))
    ])
    error_message = "URLs are kafka://host:port/topic, pubsub:projects/P/topics/T or https://host/path."
  }
}

variable "artifacts" {
  description = "Where previews and DICOM JSON go."
  type = object({
    bucket           = optional(string) # an existing one, also that of landing; null creates one
    images           = optional(string, "images/")
    metadata         = optional(string, "metadata/")
    versioning       = optional(bool, false) # artifacts are written once and can be made again
    soft_delete_days = optional(number, 7)
  })
  default = {}

  validation {
    condition = alltrue([
      for prefix in [var.artifacts.images, var.artifacts.metadata] : can(regex("^([A-Za-z0-9_.-]+/)+$", prefix))
    ])
    error_message = "images and metadata are made of letters, digits, _ . - and end in a slash."
  }

  validation {
    condition = !anytrue([
      for prefix in [var.artifacts.images, var.artifacts.metadata] : startswith(prefix, "cache/")
    ])
    error_message = "images and metadata lie outside of cache/, of which everything goes after seven days."
  }

  validation {
    condition     = contains(concat([0], range(7, 91)), var.artifacts.soft_delete_days)
    error_message = "soft_delete_days is 0 or 7 to 90."
  }

  # Not only the notification keeps the service from triggering itself: it also ignores its own prefixes, and
  # may write nowhere else. Here the notification's prefixes must be apart from them.
  validation {
    condition = !contains(local.landing_buckets, coalesce(var.artifacts.bucket, "-")) || (
      length(var.landing.prefixes) > 0 && alltrue([
        for pair in setproduct(var.landing.prefixes, [var.artifacts.images, var.artifacts.metadata, "dicom/", "cache/", "state/"]) :
        !startswith(pair[0], pair[1]) && !startswith(pair[1], pair[0])
    ]))
    error_message = "In the landing bucket, landing.prefixes must be given and be apart from images, metadata, dicom/, cache/ and state/."
  }
}

variable "dataset" {
  description = "BigQuery dataset of the tables."
  type = object({
    id       = optional(string) # default: name, with underscores
    create   = optional(bool, true)
    location = optional(string)           # default: region; may be a multi-region like EU
    readers  = optional(list(string), []) # who may read every table, beside project owners
    # How much one partition of instances holds. By DAY is for a dataset that was made before there was a choice: no
    # table can change this, and a plan that wants to would remove it.
    instances_partition = optional(string, "MONTH")
  })
  default = {}

  validation {
    condition     = contains(["DAY", "MONTH"], var.dataset.instances_partition)
    error_message = "instances_partition is MONTH, or DAY for a table that was made so."
  }

  validation {
    condition = alltrue([
      for member in var.dataset.readers : can(regex("^(user|group|serviceAccount|domain):[^:]+$", member))
    ])
    error_message = "readers are like user:a@example.org, group:g@example.org, serviceAccount:s@p.iam.gserviceaccount.com or domain:example.org."
  }

  validation {
    condition     = length(var.dataset.readers) == 0 || (var.dataset.create && var.restrict_basic_roles)
    error_message = "readers need dataset.create and restrict_basic_roles: elsewhere Terraform does not own who may read."
  }

  validation {
    condition     = var.dataset.id == null || can(regex("^[A-Za-z0-9_]+$", var.dataset.id))
    error_message = "A dataset id is made of letters, digits and underscores."
  }
}

variable "delivery" {
  description = "How messages are pushed, retried, kept and given up."
  type = object({
    ack_deadline_s             = optional(number, 600)
    max_attempts               = optional(number, 20)
    min_backoff_s              = optional(number, 10)
    max_backoff_s              = optional(number, 600)
    retention_days             = optional(number, 7)
    dead_letter_retention_days = optional(number, 31)
    regions                    = optional(list(string), []) # where messages may be stored; empty = anywhere
    # Objects never pushed: by default parts of parallel uploads by gcloud and gsutil, as the whole is announced too.
    # A change makes a new subscription: let the old one run empty before.
    ignored_prefixes = optional(list(string), [
      "gcloud/tmp/parallel_composite_uploads/", "/gsutil/tmp/parallel_composite_uploads/"
    ])
  })
  default = {}

  validation {
    condition     = var.delivery.ack_deadline_s >= 10 && var.delivery.ack_deadline_s <= 600
    error_message = "ack_deadline_s is 10 to 600."
  }

  validation {
    condition     = var.delivery.max_attempts >= 5 && var.delivery.max_attempts <= 100
    error_message = "max_attempts is 5 to 100."
  }

  validation {
    condition = (
      0 <= var.delivery.min_backoff_s && var.delivery.min_backoff_s <= var.delivery.max_backoff_s &&
      var.delivery.max_backoff_s <= 600
    )
    error_message = "0 <= min_backoff_s <= max_backoff_s <= 600."
  }

  validation {
    condition = alltrue([
      for days in [var.delivery.retention_days, var.delivery.dead_letter_retention_days] : days >= 1 && days <= 31
    ])
    error_message = "Messages are retained 1 to 31 days."
  }

  # So that the filter needs no escaping, and its characters are its bytes.
  validation {
    condition     = alltrue([for prefix in var.delivery.ignored_prefixes : can(regex("^[ !#-\\[\\]-~]+$", prefix))])
    error_message = "ignored_prefixes are printable ASCII without quotes and backslashes."
  }
}

variable "event_types" {
  description = "Which changes of objects are announced."
  type        = list(string)
  default     = ["OBJECT_FINALIZE", "OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE"]

  validation {
    condition = contains(var.event_types, "OBJECT_FINALIZE") && alltrue([
      for type in var.event_types : contains(keys(local.cloud_events), type)
    ])
    error_message = "event_types are OBJECT_FINALIZE and any of OBJECT_DELETE, OBJECT_ARCHIVE, OBJECT_METADATA_UPDATE."
  }

  validation {
    condition = (
      !var.landing.versioning || !contains(var.event_types, "OBJECT_DELETE") ||
      contains(var.event_types, "OBJECT_ARCHIVE")
    )
    error_message = "In a versioned bucket a deleted object is archived: without OBJECT_ARCHIVE its row would stay."
  }
}

variable "forward" {
  description = "Receivers of previews. urls: https://host/path; format: json or multipart; bearer_secret: the secret projects/P/secrets/S that each request bears; headers: the secret of further headers as JSON; timeout_s: limit of each step of a request; max_attempts, min_backoff_s, max_backoff_s: retries of a delivery until it is a dead letter."
  type = object({
    urls          = optional(list(string), [])
    format        = optional(string, "json")
    bearer_secret = optional(string)
    headers       = optional(string)
    timeout_s     = optional(number, 30)
    max_attempts  = optional(number, 20)
    min_backoff_s = optional(number, 10)
    max_backoff_s = optional(number, 600)
  })
  default = {}

  validation {
    condition     = alltrue([for url in var.forward.urls : can(regex("^https://[^/?#]+", url))])
    error_message = "forward.urls are https://host/path: a container keeps no files."
  }

  validation {
    condition = alltrue([
      for secret in [var.forward.bearer_secret, var.forward.headers] : secret == null || can(regex("^projects/[^/]+/secrets/[^/]+$", secret))
    ])
    error_message = "forward.bearer_secret and forward.headers are projects/P/secrets/S."
  }

  validation {
    condition     = contains(["json", "multipart"], var.forward.format) && var.forward.timeout_s > 0 && var.forward.timeout_s <= 300
    error_message = "forward.format is json or multipart; forward.timeout_s is above 0 and at most 300."
  }

  validation {
    condition = (
      var.forward.max_attempts >= 5 && var.forward.max_attempts <= 100 && 0 <= var.forward.min_backoff_s &&
      var.forward.min_backoff_s <= var.forward.max_backoff_s && var.forward.max_backoff_s <= 600
    )
    error_message = "forward.max_attempts is 5 to 100; 0 <= forward.min_backoff_s <= forward.max_backoff_s <= 600."
  }
}

variable "landing" {
  description = "Where DICOM objects land."
  type = object({
    bucket           = optional(string)           # name of the one to create; default: PROJECT-NAME-landing
    existing         = optional(list(string), []) # or these instead, which stay as they are
    projects         = optional(list(string), []) # other projects that own any of the existing buckets
    prefixes         = optional(list(string), []) # announce only these folders, each ending in a slash
    write_prefix     = optional(string, "")       # uploads go below it; of one prefix, below that
    location         = optional(string)           # of all buckets; default: region
    versioning       = optional(bool, true)
    noncurrent_days  = optional(number, 30) # old versions are removed after so many days
    soft_delete_days = optional(number, 7)
    log_bucket       = optional(string) # existing bucket for access logs
    lifecycle = optional(list(object({
      age_days      = number
      storage_class = optional(string) # null removes the object
    })), [])
  })
  default = {}

  validation {
    condition     = length(var.landing.existing) == 0 || var.landing.bucket == null
    error_message = "Give landing.bucket to create one, or landing.existing, not both."
  }

  validation {
    condition     = length(var.landing.projects) == 0 || length(var.landing.existing) > 0
    error_message = "landing.projects names the owners of landing.existing; the bucket made here is owned by project_id."
  }

  validation {
    condition     = contains(concat([0], range(7, 91)), var.landing.soft_delete_days)
    error_message = "soft_delete_days is 0 or 7 to 90."
  }

  validation {
    condition     = can(regex("^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$", var.landing.write_prefix))
    error_message = "write_prefix is empty or made of folders such as uploads/: letters, digits, _ . -, each ends in one slash."
  }

  validation {
    condition = length(var.landing.prefixes) <= 10 && alltrue([
      for prefix in var.landing.prefixes : can(regex("^([^/\"\\\\\\r\\n]+/)+$", prefix))
    ])
    error_message = "prefixes are at most 10 folders such as ct/ or in/ct/: each ends in one slash and does not begin with one, without quotes and backslashes. A bare ct would announce ct_001.dcm, which the service does not serve."
  }

  validation {
    condition = alltrue([
      for pair in setproduct(var.landing.prefixes, var.landing.prefixes) :
      pair[0] == pair[1] || !startswith(pair[0], pair[1])
    ]) && length(distinct(var.landing.prefixes)) == length(var.landing.prefixes)
    error_message = "No prefix may begin another: its objects would be announced twice."
  }
}

variable "topic" {
  description = "Existing topic for notifications, projects/P/topics/T; null creates one."
  type        = string
  default     = null

  validation {
    condition     = var.topic == null || can(regex("^projects/[^/]+/topics/[^/]+$", var.topic))
    error_message = "topic is projects/P/topics/T."
  }
}

variable "trigger" {
  description = "What tells the service of changes: pubsub, or eventarc (README.md has its gaps)."
  type        = string
  default     = "pubsub"

  validation {
    condition     = contains(["pubsub", "eventarc"], var.trigger)
    error_message = "trigger is pubsub or eventarc."
  }

  validation {
    condition     = var.trigger == "pubsub" || length(var.landing.prefixes) == 0
    error_message = "Eventarc knows buckets only as a whole: landing.prefixes need trigger = \"pubsub\"."
  }
}
