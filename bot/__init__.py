"""The side that talks to GitHub, on a hosted runner: comment in, checked request out; untrusted result in, report out. No torch."""
