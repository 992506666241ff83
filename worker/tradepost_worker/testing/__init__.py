"""For tests and demonstrations: cheating workers, a hostile corpus, a scripted broker, a device on loan."""
