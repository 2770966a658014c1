SELECT i.`row_id`, i.`object_uri`, i.`member`, i.`generation`, i.`metageneration`, i.`event_type`, i.`event_time`, i.`ingested_at`, i.`message_id`, i.`correlation_id`, i.`delivery_attempt`, i.`size_bytes`, i.`crc32c`, i.`storage_class`, i.`study_instance_uid`, i.`series_instance_uid`, i.`sop_instance_uid`, i.`sop_class_uid`, i.`transfer_syntax_uid`, i.`patient_id`, i.`issuer_of_patient_id`, i.`patient_name`, i.`patient_sex`, i.`accession_number`, i.`study_id`, i.`study_description`, i.`series_description`, i.`modality`, i.`body_part_examined`, i.`manufacturer`, i.`manufacturer_model_name`, i.`station_name`, i.`institution_name`, i.`referring_physician_name`, i.`protocol_name`, i.`photometric_interpretation`, i.`patient_birth_date`, i.`study_date`, i.`series_date`, i.`study_time`, i.`series_number`, i.`instance_number`, i.`rows`, i.`columns`, i.`number_of_frames`, i.`samples_per_pixel`, i.`bits_allocated`, i.`bits_stored`, i.`pixel_spacing`, i.`slice_thickness`, i.`image_type`, i.`metadata_uri`, i.`preview_uri`, i.`preview_error`, i.`warnings`, i.`took_ms`, i.`app_version`, i.`metadata`, i.`collection`, i.`revision`, i.`describe_key`, i.`dicom_uri`, i.`patient_name_folded` FROM (
  SELECT *,
    MAX(generation) OVER (PARTITION BY study_instance_uid, object_uri) AS last_generation,
    ROW_NUMBER() OVER (
      PARTITION BY study_instance_uid, object_uri, generation, member
      ORDER BY metageneration DESC NULLS LAST, revision DESC NULLS LAST, row_id) AS place
  FROM `${dataset}.instances` WHERE event_type IN ('OBJECT_FINALIZE', 'OBJECT_METADATA_UPDATE')) AS i
LEFT JOIN `${dataset}.removed` AS r ON r.object_uri = i.object_uri
WHERE i.generation = i.last_generation AND i.place = 1
AND (r.generation IS NULL OR r.generation < i.generation)
