"""Read stored instances for clients: bytes, frames, pictures, documents, single attributes; no HTTP.

    rows (instances) ─▶ an object or a member of an archive (objects) ─▶ a task in a worker (tasks)
                     └▶ artifacts (metadata, previews) and stored answers (cache)

The server process never parses, inflates or decodes an object; workers do.
"""
