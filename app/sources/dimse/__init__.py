"""A C-STORE SCP: put the objects that modalities send into the landing storage.

peers      who may connect, by AE title and address
part10     the file of an instance: preamble and file meta before the data set as it was received
bounds     limits on what a peer can make us hold: connections, PDUs, command sets, data sets, messages
receiver   wire them to pynetdicom, and answer
"""
