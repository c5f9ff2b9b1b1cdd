"""Receivers of webhooks and of e-mails over TLS, with certificates of a CA of their own.

Prints one line of JSON with the files of the CA and of another one and with the ports, then one line for each message
that it received. Ends with its standard input.

Ports: `https` and `smtps` (TLS from the first byte), `starttls`, and `plain`, a mail server without TLS. Those of
`wrong_name` and `expired` have a certificate for another host and one that is out of date.
"""

import base64
import datetime
import json
import pathlib
import socket
import ssl
import sys
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
PRINTING = threading.Lock()


def report(**fields):
    with PRINTING:
        print(json.dumps(fields), flush=True)


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """A CA, whose certificate is in a file."""

    def __init__(self, folder, name):
        self.folder = folder
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        builder = self.builder(named(name), self.key, NOW + DAY)
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.signed(builder))

    def builder(self, subject, key, until):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(named(self.name))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(NOW - 2 * DAY).not_valid_after(until)

    def signed(self, builder):
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def context(self, host, until=NOW + DAY):
        """Returns the TLS settings of a server with a new certificate for a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self.builder(named(host), key, until)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        path = self.folder / f"{x509.random_serial_number()}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(private + self.signed(builder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def serve(talk):
    """Calls `talk` with each connection to a new port, which is returned."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=guarded, args=(talk, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def guarded(talk, connection):
    connection.settimeout(30)
    try:
        talk(connection)
    except (OSError, ssl.SSLError):
        # The client did not trust the certificate, or has ended.
        pass
    finally:
        connection.close()


def https(name, context):
    def talk(connection):
        stream = context.wrap_socket(connection, server_side=True).makefile("rwb")
        head = {}
        for line in iter(stream.readline, b"\r\n"):
            key, _, value = line.decode().strip().partition(": ")
            head[key.lower()] = value
        body = json.loads(stream.read(int(head["content-length"])))
        stream.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        stream.flush()
        report(port=name, id=body["id"], signature=head["x-echopilot-signature"])

    return serve(talk)


def smtp(name, context, tls):
    """A mail server with TLS from the first byte, from STARTTLS on, or without it."""

    def talk(connection):
        is_encrypted = tls == "first"
        if is_encrypted:
            connection = context.wrap_socket(connection, server_side=True)
        stream = connection.makefile("rwb")

        def say(text):
            stream.write(f"{text}\r\n".encode())
            stream.flush()

        say("220 test")
        user = None
        while line := stream.readline():
            command = line.decode().strip()
            match command.split(" ")[0].upper():
                case "EHLO":
                    offers = ["test", "8BITMIME"]
                    if tls == "starttls" and not is_encrypted:
                        offers.append("STARTTLS")
                    else:
                        offers.append("AUTH PLAIN")
                    for offer in offers[:-1]:
                        say(f"250-{offer}")
                    say(f"250 {offers[-1]}")
                case "STARTTLS" if tls == "starttls":
                    say("220 begin")
                    connection = context.wrap_socket(connection, server_side=True)
                    stream = connection.makefile("rwb")
                    is_encrypted = True
                case "AUTH":
                    user = base64.b64decode(command.split(" ")[2]).decode().split("\0")[1:]
                    say("235 welcome")
                case "DATA":
                    say("354 go on")
                    lines = []
                    while (text := stream.readline()) not in (b".\r\n", b""):
                        lines.append(text.decode().strip())
                    say("250 stored")
                    ids = [text for text in lines if text.lower().startswith("message-id:")]
                    report(port=name, encrypted=is_encrypted, user=user, ids=ids)
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("250 ok")

    return serve(talk)


def main():
    folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1]))
    ca, other = Authority(folder, "ca"), Authority(folder, "other")
    good, name = ca.context("localhost"), ca.context("other.example")
    expired = ca.context("localhost", NOW - DAY)
    ports = {
        "https": https("https", good),
        "https_wrong_name": https("https_wrong_name", name),
        "https_expired": https("https_expired", expired),
        "smtps": smtp("smtps", good, "first"),
        "smtps_wrong_name": smtp("smtps_wrong_name", name, "first"),
        "starttls": smtp("starttls", good, "starttls"),
        "starttls_expired": smtp("starttls_expired", expired, "starttls"),
        "plain": smtp("plain", None, "never"),
    }
    report(ca=str(ca.path), other=str(other.path), ports=ports)
    sys.stdin.read()


if __name__ == "__main__":
    main()
