"""The SDK: futures over untrusted devices, asynchronous inside with one thin synchronous wrapper."""
