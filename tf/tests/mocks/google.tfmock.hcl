mock_data "google_project" {
  defaults = { number = "123456789012" }
}

mock_data "google_storage_project_service_account" {
  defaults = { email_address = "service-123456789012@gs-project-accounts.iam.gserviceaccount.com" }
}

mock_data "google_storage_bucket" {
  defaults = { project_number = 123456789012 }
}

mock_resource "google_cloud_run_v2_service" {
  defaults = { uri = "https://ingest.example" }
}
