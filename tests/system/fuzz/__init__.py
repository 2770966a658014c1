"""Mutation fuzzing: valid bytes are spoilt at random, and only foreseen errors may come of them.

    python -m tests.system.fuzz [SUBJECT ...] [--mutants 30000] [--first 0] [--keep FOLDER]

    seeds ─▶ mutant of a number ─▶ a worker process (app/workers) ─▶ how it ended ─▶ a line of the table

A mutant is decided by its subject and its number, so one that is found can be made again. Three of four keep
the header of their seed, so that they pass its check and meet the decoder. The columns of the table:

    reached   share that came to what lies behind the checks: the C decoder; of a PDF a page to be drawn, of a
              file its drawing or its metadata, of an archive a member, of a request its message
    made      how many were drawn, described or understood in the end
    service .. unforeseen   what no mutant may do: KINDS in campaign.py
    refused   codes of the errors of all others
"""
