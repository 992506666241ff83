"""WebSockets: a reader and a writer for each, a bounded queue of frames, and who waits for which job.

Imports the shared contract alone.
"""
