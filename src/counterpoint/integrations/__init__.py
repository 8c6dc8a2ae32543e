"""DQO inside other people's trainers: thin, over the pure functions. Nothing here is imported by the rest of the library."""
