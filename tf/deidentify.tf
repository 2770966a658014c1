# De-identification: the profile of the lake, and who may read the key that pseudonyms derive from.

locals {
  deidentify_settings = var.deidentify == null ? {} : {
    DEIDENTIFY__PROFILE     = var.deidentify.profile
    DEIDENTIFY__COLLECTIONS = jsonencode(var.deidentify.collections)
    DEIDENTIFY__PIXELS      = tostring(var.deidentify.pixels)
    DEIDENTIFY__NAMES       = var.deidentify.names
  }
  deidentify_secrets = var.deidentify == null ? {} : { DEIDENTIFY__KEY = var.deidentify.key }
  # Clean copies, and the record of the profile that the lake was made with.
  deidentify_names = var.deidentify == null ? [] : ["dicom/", "state/"]
}

# The browse service and the job of backfill need the key too: they find rows by the hashed names of objects.
resource "google_secret_manager_secret_iam_member" "deidentifies" {
  for_each = var.deidentify == null ? toset([]) : toset(concat(keys(local.services), var.backfill == null ? [] : ["backfill"]))

  project   = split("/", var.deidentify.key)[1]
  secret_id = var.deidentify.key
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members[each.key]
}
