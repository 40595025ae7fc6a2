"""The terms of use that an account accepts before its key works."""

TERMS = """\
Terms of use of this editing service

1. Use it lawfully, and only on pictures that you may edit.
2. Never use it for sexual content about minors, or for sexual or degrading pictures of people who did not
   agree to them. Attempts are refused, recorded, and reported where the law asks for it.
3. Do not use it to deceive: results carry a signed record of what made them; leave it in place.
4. Requests and results pass filters, and some wait for a person's review. Pictures and instructions are kept
   for the retention time that the operator sets, and then deleted.
5. Who misuses the service is warned, suspended or banned, and may appeal to a person.
6. The model has a licence of its own, which also binds you.
"""
