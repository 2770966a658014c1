"""What is asked of stored instances: their bytes, frames, pictures, documents, single attributes; no HTTP.

    rows (instances) ─▶ an object or a member of an archive (objects) ─▶ a task in a worker (tasks)
                     └▶ artifacts (metadata, previews) and what is kept of earlier answers (cache)

Nothing of an object is parsed, inflated or decoded in the process of the server.
"""
