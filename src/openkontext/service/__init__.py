"""The editing service: HTTP API, jobs, accounts, monitoring and the page, around `Editor`."""
