"""Instances of an Orthanc server are copied into the landing storage, as `orthanc/<Orthanc ID>.dcm`.

client   the few requests of Orthanc's REST API that this takes
state    what must survive a restart: the position in Orthanc's list of changes, requested studies
poller   walk the changes, fetch requested studies, compare everything once a day; only add
"""
