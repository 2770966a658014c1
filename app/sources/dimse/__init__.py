"""A C-STORE SCP: objects that modalities send are put into the landing storage, and there their way begins.

peers      who may connect, by AE title and address
part10     the file of an instance: preamble and file meta before the data set as it was received
bounds     what a peer may make us hold: connections, PDUs, command sets, data sets, waiting messages
receiver   wire them to pynetdicom, and answer
"""
