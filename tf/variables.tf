# Where and how it runs. What flows where is in variables_flow.tf.

variable "alerts" {
  description = "Who hears of alerts, and when they are raised."
  type = object({
    emails            = optional(list(string), [])
    channels          = optional(list(string), []) # existing ones
    oldest_unacked_s  = optional(number, 3600)     # age of a message
    server_error_rate = optional(number, 0.05)     # share of requests answered with 5xx
  })
  default = {}

  validation {
    condition = (
      var.alerts.oldest_unacked_s > 0 && var.alerts.server_error_rate > 0 && var.alerts.server_error_rate < 1
    )
    error_message = "oldest_unacked_s must be positive, server_error_rate between 0 and 1."
  }
}

variable "backfill" {
  description = "A Cloud Run job that runs `dicomlake backfill` where the buckets are; null leaves it out. The topic and the subscription that it publishes to are always there."
  type = object({
    args      = optional(list(string)) # of dicomlake; default: backfill, and the first landing bucket
    cpu       = optional(number, 1)
    memory    = optional(string, "512Mi")
    timeout_s = optional(number, 86400) # a day; 10^8 objects take 7.6 hours
  })
  default = null

  validation {
    condition     = var.backfill == null || try(contains(["backfill", "reprocess"], coalesce(var.backfill.args, ["backfill"])[0]), false)
    error_message = "args begin with backfill or reprocess, the commands that the account of the job may run."
  }

  validation {
    condition = var.backfill == null || try(
      contains([1, 2, 4, 6, 8], var.backfill.cpu) && can(regex("^[1-9][0-9]*(Mi|Gi)$", var.backfill.memory)) &&
      var.backfill.timeout_s >= 60 && var.backfill.timeout_s <= 604800, false
    )
    error_message = "cpu is 1, 2, 4, 6 or 8; memory is like 512Mi or 2Gi; timeout_s is 60 to 604800, a week."
  }
}

variable "browse" {
  description = "A second service that shows the lake to people and viewers; null leaves it out."
  type = object({
    users    = optional(string, "platform") # who tells them apart: platform (Cloud Run), iap, or oidc
    invokers = optional(list(string), [])   # whom Cloud Run or IAP lets in; empty with oidc, which lets in itself
    roles    = optional(map(string), {})    # api.roles: who is read-only, user or admin
    uploads  = optional(bool, false)        # uploads and STOW-RS, for the roles user and admin
    admin    = optional(bool, false)        # dead letters are sent again and dropped, by the role admin
    oidc = optional(object({
      issuer        = string           # its address, like https://accounts.google.com
      client_id     = string           # of the page; its redirect is PUBLIC_URL/login/callback
      client_secret = optional(string) # secret in Secret Manager, by name or projects/P/secrets/S
      users_key     = string           # the same: at least 32 bytes, which sign the sessions of the page
    }))
    public_url    = optional(string, "") # address as people see it; empty = as in the request
    cpu           = optional(number, 1)
    memory        = optional(string, "512Mi")
    concurrency   = optional(number, 40)
    min_instances = optional(number, 0)
    max_instances = optional(number, 4)
    timeout_s     = optional(number, 60)
    ingress       = optional(string, "INGRESS_TRAFFIC_ALL")
  })
  default = null

  validation {
    condition = var.browse == null || try(alltrue([
      for member in var.browse.invokers :
      can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))
    ]), false)
    error_message = "invokers are like group:radiology@example.org; patient data is not for allUsers."
  }

  validation {
    condition = var.browse == null || try(
      contains([1, 2, 4, 6, 8], var.browse.cpu) && can(regex("^[1-9][0-9]*(Mi|Gi)$", var.browse.memory)), false
    )
    error_message = "cpu is 1, 2, 4, 6 or 8; memory is like 512Mi or 2Gi."
  }

  validation {
    condition = var.browse == null || can(
      regex("^INGRESS_TRAFFIC_(ALL|INTERNAL_ONLY|INTERNAL_LOAD_BALANCER)$", var.browse.ingress)
    )
    error_message = "ingress is INGRESS_TRAFFIC_ALL, _INTERNAL_ONLY or _INTERNAL_LOAD_BALANCER."
  }

  validation {
    condition = var.browse == null || try(
      contains(["platform", "iap", "oidc"], var.browse.users) &&
      alltrue([for role in values(var.browse.roles) : contains(["read-only", "user", "admin"], role)]), false
    )
    error_message = "users is platform, iap or oidc; a role is read-only, user or admin."
  }

  validation {
    condition     = var.browse == null || try(var.browse.users == "platform" || length(var.browse.roles) > 0, false)
    error_message = "With iap and oidc nobody sees anything without roles, like { \"domain:example.org\" = \"read-only\" }."
  }

  validation {
    condition = var.browse == null || try(
      (var.browse.users == "oidc") == (var.browse.oidc != null) &&
      (var.browse.users != "oidc" || length(var.browse.invokers) == 0), false
    )
    error_message = "users = \"oidc\" needs oidc and no invokers, the others no oidc: there Cloud Run lets everybody in, and the service asks the issuer."
  }

  validation {
    condition = try(var.browse.oidc, null) == null ? true : (
      startswith(var.browse.oidc.issuer, "https://") && alltrue([
        for secret in concat(var.browse.oidc.client_secret[*], [var.browse.oidc.users_key]) :
        can(regex("^(projects/[^/]+/secrets/)?[A-Za-z0-9_-]+$", secret))
      ])
    )
    error_message = "issuer is an https address; client_secret and users_key name secrets: NAME or projects/P/secrets/NAME."
  }

  validation {
    condition     = var.browse == null || can(regex("^(https://[^ ?#]+)?$", var.browse.public_url))
    error_message = "public_url is an https address, or empty."
  }

  validation {
    condition = var.browse == null || try(
      (!var.browse.uploads || length(setintersection(values(var.browse.roles), ["user", "admin"])) > 0) &&
      (!var.browse.admin || contains(values(var.browse.roles), "admin")), false
    )
    error_message = "uploads are for the roles user and admin, admin is for the role admin: give it to somebody in roles."
  }
}

variable "deletion_protection" {
  description = "Refuse to destroy tables and buckets that hold data."
  type        = bool
  default     = true
}

variable "image" {
  description = "Container image to run, best by digest: REGION-docker.pkg.dev/PROJECT/REPOSITORY/dicomlake@sha256:..."
  type        = string

  validation {
    condition     = length(trimspace(var.image)) > 0
    error_message = "image must not be empty."
  }
}

variable "ingest" {
  description = "The service that takes events."
  type = object({
    cpu           = optional(number, 1)
    memory        = optional(string, "512Mi")
    concurrency   = optional(number, 4) # events at once in one instance; each may hold an object in memory
    min_instances = optional(number, 0)
    max_instances = optional(number, 20)
    timeout_s     = optional(number, 300)
    ingress       = optional(string, "INGRESS_TRAFFIC_INTERNAL_ONLY")
  })
  default = {}

  validation {
    condition     = var.ingest.timeout_s >= 30 && var.ingest.timeout_s < var.delivery.ack_deadline_s
    error_message = "timeout_s is at least 30 and below delivery.ack_deadline_s: a request must not outlive its delivery."
  }

  validation {
    condition     = contains([1, 2, 4, 6, 8], var.ingest.cpu) && can(regex("^[1-9][0-9]*(Mi|Gi)$", var.ingest.memory))
    error_message = "cpu is 1, 2, 4, 6 or 8; memory is like 512Mi or 2Gi."
  }

  validation {
    condition = (
      var.ingest.concurrency >= 1 && var.ingest.concurrency <= 1000 && var.ingest.min_instances >= 0 &&
      var.ingest.max_instances >= max(1, var.ingest.min_instances)
    )
    error_message = "concurrency is 1 to 1000, min_instances at least 0, max_instances at least 1 and not below that."
  }

  validation {
    condition     = can(regex("^INGRESS_TRAFFIC_(ALL|INTERNAL_ONLY|INTERNAL_LOAD_BALANCER)$", var.ingest.ingress))
    error_message = "ingress is INGRESS_TRAFFIC_ALL, _INTERNAL_ONLY or _INTERNAL_LOAD_BALANCER."
  }
}

variable "kms" {
  description = "Customer-managed key of all that stores data, in the location of that."
  type = object({
    key   = string
    grant = optional(bool, true) # false: its owner grants the service agents
  })
  default = null

  validation {
    condition = var.kms == null || can(
      regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms.key)
    )
    error_message = "key is projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "labels" {
  description = "Labels of every resource that can have some."
  type        = map(string)
  default     = {}
}

variable "name" {
  description = "Begins the name of everything."
  type        = string
  default     = "dicomlake"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is 3 to 20 of a-z 0-9 -, begins with a letter and does not end in a hyphen."
  }
}

variable "network" {
  description = "Way to a VPC: a connector, or directly (network and/or subnetwork, tags); null: none."
  type = object({
    connector  = optional(string)
    network    = optional(string)
    subnetwork = optional(string)
    tags       = optional(list(string), [])
    egress     = optional(string, "PRIVATE_RANGES_ONLY")
  })
  default = null

  validation {
    condition = var.network == null || try(
      (var.network.connector != null) != (var.network.network != null || var.network.subnetwork != null), false
    )
    error_message = "Give connector, or network and/or subnetwork, not both."
  }

  validation {
    condition     = var.network == null || try(contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.network.egress), false)
    error_message = "egress is PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "project_id" {
  description = "Project to deploy to."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{2,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is the id, like my-project-123, not the name or number."
  }
}

variable "region" {
  description = "Region of the services, and of buckets and dataset unless those say otherwise."
  type        = string
  default     = "us-central1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is like us-central1."
  }
}

variable "registry" {
  description = "Create an Artifact Registry repository for the image."
  type        = bool
  default     = false
}

variable "restrict_basic_roles" {
  description = "Whether the dataset and buckets made here admit only project owners and named accounts. By default Google lets every project viewer read them, and patients are in them."
  type        = bool
  default     = true
}

variable "service_accounts" {
  description = "E-mail addresses of existing accounts to use instead of new ones."
  type = object({
    ingest   = optional(string)
    push     = optional(string)
    browse   = optional(string)
    backfill = optional(string)
    lists    = optional(string)
  })
  default = {}
}

variable "settings" {
  description = "Further settings of the service, as SECTION__KEY = value, for example PREVIEW__MAX_SIDE = \"1024\"."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.settings) : can(regex("^[A-Z]+__[A-Z0-9_]+$", key))])
    error_message = "Keys are like PREVIEW__MAX_SIDE."
  }

  validation {
    condition = alltrue([
      for key in keys(var.settings) :
      !can(regex("^(API__(HOST|PORT|SERVE|AUTH|AUDIENCE|SERVICE_ACCOUNTS|USERS|USERS_KEY|USERS_AUDIENCE|ROLES|PUBLIC_URL|OIDC_.*)|BROWSE__(UPLOADS|MAX_UPLOAD_BYTES)|SOURCE__(URL|BUCKETS|EVENTS|WRITE_PREFIX)|ANNOUNCE__.*|DEIDENTIFY__.*|FORWARD__.*|ARTIFACTS__.*|BUS__.*|BACKFILL__.*|WAREHOUSE__URL)$", key))
    ])
    error_message = "Addresses, callers and users (API__*, SOURCE__*, ANNOUNCE__*, DEIDENTIFY__*, FORWARD__*, ARTIFACTS__*, BUS__*, BACKFILL__*, WAREHOUSE__URL, BROWSE__UPLOADS) follow from other variables."
  }
}
