"""Signs a message as an upstream server would, or verifies it as a receiver would: dkimpy, with DNS from a file.

sign KEY [DOMAIN SELECTOR]  message on stdin, signed message on stdout
verify KEY.PUB     message on stdin; exit code 0 if the signature verifies
check RECORDS      message on stdin; a line for each signature: its domain, its algorithm, good or bad. RECORDS has a DNS name and the
                   value of its TXT record on each line
"""

import sys

import dkim

DOMAIN, SELECTOR = b"solarmora.com", b"upstream"
SIGNED = [b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type", b"x-folded"]

verb, key = sys.argv[1], open(sys.argv[2], "rb").read()
message = sys.stdin.buffer.read()


def dns(name, timeout=5):
    wanted = SELECTOR + b"._domainkey." + DOMAIN + b"."
    assert (name.encode() if isinstance(name, str) else name) == wanted, name
    lines = [line for line in key.decode().split() if "-----" not in line and line not in ("BEGIN", "PUBLIC", "KEY", "END")]
    return b"v=DKIM1; k=rsa; p=" + "".join(lines).encode()


def records(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    lines = (line.split(" ", 1) for line in key.decode().splitlines())
    return {owner: value.encode() for owner, value in lines}.get(name)


if verb == "check":
    verifier = dkim.DKIM(message)
    for at in range(sum(name.lower() == b"dkim-signature" for name, _ in verifier.headers)):
        try:
            good = verifier.verify(at, dnsfunc=records)
        except dkim.DKIMException as error:
            good = False
            print(error, file=sys.stderr)
        fields = verifier.signature_fields
        print(fields[b"d"].decode(), fields[b"a"].decode(), "good" if good else "bad")
elif verb == "sign":
    if len(sys.argv) > 3:
        DOMAIN, SELECTOR = sys.argv[3].encode(), sys.argv[4].encode()
    canonicalize = (b"simple", b"simple")
    sys.stdout.buffer.write(dkim.sign(message, SELECTOR, DOMAIN, key, canonicalize=canonicalize, include_headers=SIGNED) + message)
else:
    sys.exit(0 if dkim.verify(message, dnsfunc=dns) else 1)
