resource "google_artifact_registry_repository" "image" {
  count = var.registry ? 1 : 0

  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of dicomlake"
  format        = "DOCKER"
  kms_key_name  = local.kms_key
  labels        = var.labels

  # Tags can move: services run digests, so no tag is trusted, and the build moves `running` and `previous`.
  docker_config {
    immutable_tags = false
  }

  cleanup_policies {
    id     = "keep-deployed"
    action = "KEEP"
    condition {
      tag_state    = "TAGGED"
      tag_prefixes = ["running", "previous"]
    }
  }

  cleanup_policies {
    id     = "keep-last"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }

  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "7776000s"
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}
