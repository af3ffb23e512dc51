"""Methods under one configuration: which, how they run, what comes of it."""
