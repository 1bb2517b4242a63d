"""The CPU backend: graphs lowered to native code through LLVM."""
