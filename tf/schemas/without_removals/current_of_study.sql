SELECT * FROM `${dataset}.instances_current` WHERE study_instance_uid = uid
