SELECT study_instance_uid,
  patient_id,
  issuer_of_patient_id,
  patient_name,
  patient_birth_date,
  patient_sex,
  accession_number,
  study_id,
  study_description,
  study_date,
  study_time,
  referring_physician_name,
  institution_name,
  modalities,
  number_of_series,
  number_of_instances,
  number_of_objects,
  size_bytes,
  first_ingested_at,
  last_ingested_at,
  preview_uri
FROM (
  SELECT study_instance_uid,
    MAX(patient_id) AS patient_id,
    MAX(issuer_of_patient_id) AS issuer_of_patient_id,
    MAX(patient_name) AS patient_name,
    MAX(patient_birth_date) AS patient_birth_date,
    MAX(patient_sex) AS patient_sex,
    MAX(accession_number) AS accession_number,
    MAX(study_id) AS study_id,
    MAX(study_description) AS study_description,
    MAX(study_date) AS study_date,
    MAX(study_time) AS study_time,
    MAX(referring_physician_name) AS referring_physician_name,
    MAX(institution_name) AS institution_name,
    STRING_AGG(DISTINCT modality, ',' ORDER BY modality) AS modalities,
    COUNT(DISTINCT series_instance_uid) AS number_of_series,
    COUNT(DISTINCT sop_instance_uid) AS number_of_instances,
    COUNT(DISTINCT object_uri) AS number_of_objects,
    SUM(object_bytes) AS size_bytes,
    MIN(ingested_at) AS first_ingested_at,
    MAX(ingested_at) AS last_ingested_at,
    MIN(preview_uri) AS preview_uri
  FROM (
    SELECT *, CASE WHEN ROW_NUMBER() OVER (PARTITION BY study_instance_uid, object_uri ORDER BY size_bytes DESC) = 1
      THEN size_bytes END AS object_bytes
    FROM `${dataset}.instances_current`) AS i
  WHERE study_instance_uid IS NOT NULL
  GROUP BY study_instance_uid) AS grouped
