# What `terraform apply` with nothing but a project and an image makes, and who may do what then.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "google-beta" {}

variables {
  project_id = "demo"
  image      = "example/dicomlake@sha256:0"
}

run "an_event_reaches_the_service" {
  assert {
    condition     = [for one in google_storage_notification.landing : [one.bucket, one.topic, one.payload_format]] == [["demo-dicomlake-landing", google_pubsub_topic.topic["events"].id, "JSON_API_V1"]]
    error_message = "The landing bucket announces its changes to the topic, with payload."
  }

  assert {
    condition     = google_storage_notification.landing["demo-dicomlake-landing/"].event_types == toset(["OBJECT_FINALIZE", "OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE"])
    error_message = "All four types of events are announced."
  }

  assert {
    condition     = google_storage_notification.landing["demo-dicomlake-landing/"].object_name_prefix == null
    error_message = "Objects of any name are announced."
  }

  assert {
    condition = (
      google_pubsub_subscription.push["events"].topic == google_pubsub_topic.topic["events"].id &&
      google_pubsub_subscription.push["events"].push_config[0].push_endpoint == "https://ingest.example/" &&
      google_pubsub_subscription.push["events"].push_config[0].oidc_token[0].audience == "dicomlake-ingest.demo" &&
      google_cloud_run_v2_service.service["ingest"].custom_audiences == tolist(["dicomlake-ingest.demo"]) &&
      google_pubsub_subscription.push["events"].push_config[0].oidc_token[0].service_account_email == google_service_account.job["push"].email
    )
    error_message = "The subscription pushes to the service as the push account, with an audience that Cloud Run knows."
  }
}

run "a_message_is_tried_long_enough_and_then_kept" {
  assert {
    condition     = google_pubsub_subscription.push["events"].ack_deadline_seconds == 600 && google_cloud_run_v2_service.service["ingest"].template[0].timeout == "300s"
    error_message = "A request ends before its delivery does."
  }

  assert {
    condition     = google_pubsub_subscription.push["events"].retry_policy[0].minimum_backoff == "10s" && google_pubsub_subscription.push["events"].retry_policy[0].maximum_backoff == "600s"
    error_message = "Retries back off from 10 s to 600 s."
  }

  assert {
    condition = (
      google_pubsub_subscription.push["events"].dead_letter_policy[0].max_delivery_attempts == 20 &&
      google_pubsub_subscription.push["events"].dead_letter_policy[0].dead_letter_topic == google_pubsub_topic.topic["dead-letter"].id
    )
    error_message = "After 20 deliveries a message goes to the dead-letter topic."
  }

  assert {
    condition     = alltrue([for one in concat(values(google_pubsub_subscription.push), [google_pubsub_subscription.dead_letter]) : one.expiration_policy[0].ttl == ""])
    error_message = "Idle subscriptions do not expire."
  }

  assert {
    condition = (
      google_pubsub_subscription.dead_letter.topic == google_pubsub_topic.topic["dead-letter"].id &&
      google_pubsub_subscription.dead_letter.bigquery_config[0].table == "demo.dicomlake.dead_letter" &&
      google_pubsub_subscription.dead_letter.bigquery_config[0].write_metadata &&
      google_pubsub_subscription.dead_letter.message_retention_duration == "2678400s"
    )
    error_message = "Dead letters are written to the table with their attributes, and wait 31 days while it cannot be written."
  }

  assert {
    condition     = google_pubsub_subscription.push["events"].filter == "NOT hasPrefix(attributes.objectId, \"gcloud/tmp/parallel_composite_uploads/\") AND NOT hasPrefix(attributes.objectId, \"/gsutil/tmp/parallel_composite_uploads/\")"
    error_message = "Parts of parallel uploads are not pushed."
  }
}

run "live_events_never_wait_behind_a_backlog" {
  assert {
    condition = { for key, one in google_pubsub_subscription.push : one.name => one.topic } == {
      dicomlake-push          = google_pubsub_topic.topic["events"].id
      dicomlake-backfill-push = google_pubsub_topic.topic["backfill"].id
    } && google_pubsub_topic.topic["backfill"].id != google_pubsub_topic.topic["events"].id
    error_message = "What backfill publishes has a topic and a subscription of its own."
  }

  # Literal: all but name and topic is that of the lane of live events.
  assert {
    condition = [
      google_pubsub_subscription.push["backfill"].push_config[0].push_endpoint,
      google_pubsub_subscription.push["backfill"].push_config[0].oidc_token[0].audience,
      google_pubsub_subscription.push["backfill"].push_config[0].oidc_token[0].service_account_email,
      google_pubsub_subscription.push["backfill"].dead_letter_policy[0].dead_letter_topic,
      tostring(google_pubsub_subscription.push["backfill"].dead_letter_policy[0].max_delivery_attempts),
      google_pubsub_subscription.push["backfill"].retry_policy[0].minimum_backoff,
      google_pubsub_subscription.push["backfill"].retry_policy[0].maximum_backoff,
      tostring(google_pubsub_subscription.push["backfill"].ack_deadline_seconds),
      google_pubsub_subscription.push["backfill"].message_retention_duration,
      google_pubsub_subscription.push["backfill"].filter,
      ] == [
      "https://ingest.example/", "dicomlake-ingest.demo", google_service_account.job["push"].email,
      google_pubsub_topic.topic["dead-letter"].id, "20", "10s", "600s", "600", "604800s",
      google_pubsub_subscription.push["events"].filter,
    ]
    error_message = "It is pushed to the same service, as long, and given up to the same place."
  }

  assert {
    condition     = google_pubsub_topic.topic["backfill"].message_retention_duration == null && google_pubsub_topic.topic["events"].message_retention_duration == "604800s"
    error_message = "What was listed can be listed again, so its topic keeps no copy."
  }

  assert {
    condition     = output.topics.backfill == google_pubsub_topic.topic["backfill"].id && strcontains(output.settings, "export DICOMLAKE__BACKFILL__TOPIC='${google_pubsub_topic.topic["backfill"].id}'")
    error_message = "The command line publishes to it."
  }

  assert {
    condition     = length(google_cloud_run_v2_job.backfill) == 0 && output.backfill == null && keys(google_service_account.job) == ["ingest", "push"]
    error_message = "No job and no account for it unless asked for."
  }
}

run "buckets_are_closed" {
  assert {
    condition = alltrue([
      for bucket in google_storage_bucket.bucket :
      bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced" && !bucket.force_destroy &&
      bucket.soft_delete_policy[0].retention_duration_seconds == 604800
    ])
    error_message = "Uniform access, never public, not destroyed with data, restorable for 7 days."
  }

  assert {
    condition     = google_storage_bucket.bucket["landing"].versioning[0].enabled && [for bucket in google_storage_bucket.bucket : bucket.name] == ["demo-dicomlake-artifacts", "demo-dicomlake-landing"]
    error_message = "The landing bucket is versioned; artifacts have their own."
  }
}

run "tables_are_as_the_code_says" {
  assert {
    condition     = keys(google_bigquery_table.table) == ["announced", "dead_letter", "deliveries", "failures", "instances", "jobs"]
    error_message = "Six tables."
  }

  assert {
    condition = (
      google_bigquery_table.table["instances"].time_partitioning[0].field == "ingested_at" &&
      google_bigquery_table.table["instances"].time_partitioning[0].type == "MONTH" &&
      google_bigquery_table.table["failures"].time_partitioning[0].type == "DAY" &&
      google_bigquery_table.table["instances"].clustering == tolist(["study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality"])
    )
    error_message = "instances is partitioned by the month of ingested_at and clustered by the keys."
  }

  # A partitioning column that is not there fails only at Google's; so does a wrong shape of dead letters.
  assert {
    condition = alltrue([
      for table in google_bigquery_table.table : alltrue([
        for column in concat([for part in table.time_partitioning : part.field], coalesce(table.clustering, [])) :
        contains(jsondecode(table.schema)[*].name, column)
      ])
    ])
    error_message = "Tables are partitioned and clustered by columns that they have."
  }

  assert {
    condition = { for column in jsondecode(google_bigquery_table.table["dead_letter"].schema) : column.name => column.type } == {
      subscription_name = "STRING", message_id = "STRING", publish_time = "TIMESTAMP", data = "BYTES", attributes = "STRING"
    }
    error_message = "dead_letter has the columns that a BigQuery subscription with metadata writes."
  }

  assert {
    condition     = alltrue([for table in google_bigquery_table.table : table.deletion_protection])
    error_message = "Tables are not destroyed by accident."
  }
}

run "views_come_from_the_generated_sql" {
  assert {
    condition     = keys(google_bigquery_table.view) == ["dead_letters", "instances_current"] && keys(google_bigquery_table.view_on_views) == ["series", "studies"]
    error_message = "Four views, those over instances_current after it."
  }

  assert {
    condition = alltrue([
      for view in concat(values(google_bigquery_table.view), values(google_bigquery_table.view_on_views)) :
      strcontains(view.view[0].query, "`demo.dicomlake.") && !strcontains(view.view[0].query, "$${") && !view.view[0].use_legacy_sql
    ])
    error_message = "Views read the tables of this dataset, in standard SQL."
  }

  assert {
    condition = (
      keys(google_bigquery_table.materialized) == ["removed"] &&
      startswith(google_bigquery_table.materialized["removed"].materialized_view[0].query, "SELECT object_uri, MAX(generation) AS generation FROM `demo.dicomlake.instances`") &&
      strcontains(google_bigquery_table.view["instances_current"].view[0].query, "PARTITION BY study_instance_uid, object_uri) AS last_generation") &&
      strcontains(google_bigquery_table.view["instances_current"].view[0].query, "LEFT JOIN `demo.dicomlake.removed`")
    )
    error_message = "Removals are announced, so a look-up of one study reads that study and the removals."
  }

  assert {
    condition = (
      google_bigquery_table.study_current[0].clustering == tolist(["study_instance_uid"]) &&
      length(google_bigquery_table.study_current[0].time_partitioning) == 0 &&
      length(google_bigquery_data_transfer_config.lists) + length(google_bigquery_table_iam_member.lists_reads) == 0
    )
    error_message = "The table of studies is there for who browses; nothing fills it before."
  }

  assert {
    condition = [
      for one in google_bigquery_routine.function :
      [one.routine_id, one.routine_type, one.language, one.arguments[0].name, one.arguments[0].data_type]
    ] == [["current_of_study", "TABLE_VALUED_FUNCTION", "SQL", "uid", "{\"typeKind\":\"STRING\"}"]]
    error_message = "One table function, of a study's UID."
  }

  assert {
    condition     = strcontains(google_bigquery_routine.function["current_of_study"].definition_body, "AND study_instance_uid = uid) AS i")
    error_message = "Its filter is inside, next to the table."
  }
}

run "only_owners_and_our_accounts_read_patients" {
  assert {
    condition     = [for one in google_bigquery_dataset.lake[0].access : [one.role, one.special_group]] == [["OWNER", "projectOwners"]]
    error_message = "The dataset admits no viewers and editors of the project."
  }

  assert {
    condition = { for one in google_storage_bucket_iam_binding.basic_roles : "${one.bucket} ${one.role}" => one.members } == {
      for pair in setproduct(["demo-dicomlake-landing", "demo-dicomlake-artifacts"], ["BucketOwner", "BucketReader", "ObjectOwner", "ObjectReader"]) :
      "${pair[0]} roles/storage.legacy${pair[1]}" => toset(["projectOwner:demo"])
    }
    error_message = "The buckets admit no viewers and editors of the project."
  }
}

run "what_holds_no_data_can_be_replaced" {
  assert {
    condition     = !google_cloud_run_v2_service.service["ingest"].deletion_protection && google_bigquery_table.table["instances"].deletion_protection
    error_message = "A service whose first start failed is replaced by the next apply; tables are protected."
  }
}

run "the_service_runs_small" {
  assert {
    condition = (
      google_cloud_run_v2_service.service["ingest"].template[0].containers[0].resources[0].limits == tomap({ cpu = "1", memory = "512Mi" }) &&
      google_cloud_run_v2_service.service["ingest"].template[0].containers[0].resources[0].cpu_idle &&
      google_cloud_run_v2_service.service["ingest"].template[0].execution_environment == "EXECUTION_ENVIRONMENT_GEN2" &&
      google_cloud_run_v2_service.service["ingest"].template[0].service_account == google_service_account.job["ingest"].email &&
      google_cloud_run_v2_service.service["ingest"].template[0].containers[0].startup_probe[0].http_get[0].path == "/health" &&
      google_cloud_run_v2_service.service["ingest"].ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY" &&
      google_cloud_run_v2_service.service["ingest"].location == "us-central1"
    )
    error_message = "512 MiB in us-central1, billed by request, under its own account, internal only."
  }

  assert {
    condition = { for env in google_cloud_run_v2_service.service["ingest"].template[0].containers[0].env : env.name => env.value } == {
      DICOMLAKE__API__AUDIENCE           = "dicomlake-ingest.demo"
      DICOMLAKE__API__AUTH               = "iam"
      DICOMLAKE__API__HOST               = "0.0.0.0"
      DICOMLAKE__API__SERVE              = "ingest"
      DICOMLAKE__API__SERVICE_ACCOUNTS   = jsonencode([google_service_account.job["push"].email])
      DICOMLAKE__ARTIFACTS__IMAGES       = "images/"
      DICOMLAKE__ARTIFACTS__METADATA     = "metadata/"
      DICOMLAKE__ARTIFACTS__URL          = "gs://demo-dicomlake-artifacts"
      DICOMLAKE__BACKFILL__TOPIC         = google_pubsub_topic.topic["backfill"].id
      DICOMLAKE__BUS__DEAD_LETTER_TOPIC  = google_pubsub_topic.topic["dead-letter"].id
      DICOMLAKE__BUS__URL                = "pubsub:${google_pubsub_topic.topic["events"].id}"
      DICOMLAKE__DELIVERY__DEADLINE_S    = "270"
      DICOMLAKE__SOURCE__BUCKETS         = "[]"
      DICOMLAKE__SOURCE__EVENTS          = "[\"OBJECT_FINALIZE\",\"OBJECT_DELETE\",\"OBJECT_ARCHIVE\",\"OBJECT_METADATA_UPDATE\"]"
      DICOMLAKE__SOURCE__URL             = "gs://demo-dicomlake-landing"
      DICOMLAKE__SOURCE__WRITE_PREFIX    = ""
      DICOMLAKE__WAREHOUSE__URL          = "bigquery:demo.dicomlake"
      DICOMLAKE__WORKERS__COUNT          = "1"
      DICOMLAKE__WORKERS__INFLIGHT_BYTES = "67108864"
      DICOMLAKE__WORKERS__MEMORY_BYTES   = "268435456"
    }
    error_message = "The service is told where everything is, and who may call."
  }

  assert {
    condition     = keys(google_cloud_run_v2_service.service) == ["ingest"]
    error_message = "No browse service unless asked for."
  }
}

run "nothing_is_forwarded" {
  assert {
    condition     = toset(keys(google_pubsub_topic.topic)) == toset(["events", "backfill", "dead-letter"]) && length(google_pubsub_subscription.forward_push) == 0 && length(google_secret_manager_secret_iam_member.forwards) == 0
    error_message = "Without receivers nothing is made for them."
  }
}

run "each_account_may_do_its_job_and_no_more" {
  assert {
    condition = { for one in google_storage_bucket_iam_member.names : "${one.role} ${one.bucket}" => one.member } == {
      "roles/storage.objectViewer demo-dicomlake-landing" = "serviceAccount:${google_service_account.job["ingest"].email}"
      "roles/storage.objectUser demo-dicomlake-artifacts" = "serviceAccount:${google_service_account.job["ingest"].email}"
    }
    error_message = "The ingest account reads landing objects and writes artifacts."
  }

  assert {
    condition = { for one in google_bigquery_table_iam_member.appends : one.table_id => "${one.role} ${one.member}" } == {
      announced   = "roles/bigquery.dataEditor serviceAccount:${google_service_account.job["ingest"].email}"
      instances   = "roles/bigquery.dataEditor serviceAccount:${google_service_account.job["ingest"].email}"
      failures    = "roles/bigquery.dataEditor serviceAccount:${google_service_account.job["ingest"].email}"
      dead_letter = "roles/bigquery.dataEditor serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    }
    error_message = "The ingest account appends to three tables, Pub/Sub to the one of dead letters."
  }

  assert {
    condition = toset([for one in google_pubsub_topic_iam_member.dead_letters : "${one.role} ${one.topic} ${one.member}"]) == toset([
      "roles/pubsub.publisher ${google_pubsub_topic.topic["dead-letter"].id} serviceAccount:${google_service_account.job["ingest"].email}",
      "roles/pubsub.publisher ${google_pubsub_topic.topic["dead-letter"].id} serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com",
    ])
    error_message = "The service and Pub/Sub publish dead letters."
  }

  assert {
    condition = toset([for one in google_pubsub_subscription_iam_member.dead_lettered : "${one.subscription} ${one.role} ${one.member}"]) == toset([
      "dicomlake-push roles/pubsub.subscriber serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com",
      "dicomlake-backfill-push roles/pubsub.subscriber serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com",
    ])
    error_message = "Pub/Sub takes dead letters off both push subscriptions."
  }

  assert {
    condition     = [for one in google_pubsub_topic_iam_member.storage_publishes : [one.topic, one.role, one.member]] == [[google_pubsub_topic.topic["events"].id, "roles/pubsub.publisher", "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"]]
    error_message = "Cloud Storage publishes notifications."
  }

  assert {
    condition     = [google_cloud_run_v2_service_iam_member.push_invokes.name, google_cloud_run_v2_service_iam_member.push_invokes.role, google_cloud_run_v2_service_iam_member.push_invokes.member] == ["dicomlake-ingest", "roles/run.invoker", "serviceAccount:${google_service_account.job["push"].email}"]
    error_message = "Only the push account calls the service."
  }

  assert {
    condition     = [google_service_account_iam_member.push_token.service_account_id, google_service_account_iam_member.push_token.role, google_service_account_iam_member.push_token.member] == [google_service_account.job["push"].name, "roles/iam.serviceAccountOpenIdTokenCreator", "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"]
    error_message = "Pub/Sub makes identity tokens of the push account."
  }

  assert {
    condition     = [for one in concat(values(google_project_iam_member.jobs), values(google_project_iam_member.eventarc)) : [one.role, one.member]] == [["roles/bigquery.jobUser", "serviceAccount:${google_service_account.job["ingest"].email}"]]
    error_message = "On the project only to ask what rows say, which the service does before it removes artifacts."
  }
}

run "somebody_is_told" {
  variables {
    alerts = { emails = ["it@example.org"], channels = ["projects/demo/notificationChannels/1"] }
  }

  assert {
    condition     = keys(google_monitoring_alert_policy.alert) == ["backlog", "dead-letters", "server-errors"]
    error_message = "Three alerts."
  }

  assert {
    condition = alltrue([
      for alert in google_monitoring_alert_policy.alert :
      alert.notification_channels == tolist(["projects/demo/notificationChannels/1", google_monitoring_notification_channel.email["it@example.org"].name])
    ])
    error_message = "Alerts go to the existing channel and to the address."
  }

  assert {
    condition = [for one in google_monitoring_alert_policy.alert["dead-letters"].conditions : [one.condition_threshold[0].filter, one.condition_threshold[0].threshold_value]] == [
      ["metric.type = \"pubsub.googleapis.com/topic/send_message_operation_count\" AND resource.type = \"pubsub_topic\" AND resource.labels.topic_id = \"dicomlake-dead-letter\"", 0],
      ["metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\" AND resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = one_of(\"dicomlake-backfill-push\", \"dicomlake-push\")", 0],
    ]
    error_message = "Any dead letter raises the alert, whoever gave it up."
  }

  assert {
    condition     = !anytrue([for one in google_monitoring_alert_policy.alert["backlog"].conditions : strcontains(one.condition_threshold[0].filter, "backfill")])
    error_message = "A backlog that is hours old is no fault."
  }

  assert {
    condition = (
      google_monitoring_alert_policy.alert["server-errors"].conditions[0].condition_threshold[0].threshold_value == 0.05 &&
      google_monitoring_alert_policy.alert["server-errors"].conditions[0].condition_threshold[0].filter == "${google_monitoring_alert_policy.alert["server-errors"].conditions[0].condition_threshold[0].denominator_filter} AND metric.labels.response_code_class = \"5xx\""
    )
    error_message = "The error alert is a share of all requests."
  }

  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.flow.dashboard_json).gridLayout.widgets) == 8
    error_message = "The dashboard has eight charts."
  }
}
