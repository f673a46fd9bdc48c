/** Certificates, and encryption as each `sslmode` wants it, between our two ends. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { X509Certificate, createHash, createPrivateKey } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createSecureContext } from "node:tls";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Certificate, makeCertificate } from "../../src/pgwire/certificate.ts";
import { derInteger, derObjectIdentifier, derTime, derUtf8String } from "../../src/pgwire/der.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import type { ServerTls } from "../../src/pgwire/server-startup.ts";
import type { SslMode } from "../../src/pgwire/uri.ts";
import { TestServer, random } from "./test-server.ts";

const directory = mkdtempSync(join(tmpdir(), "neon-tls-"));
after(() => rmSync(directory, { recursive: true, force: true }));

function certificate(hosts: readonly string[], days = 10): Certificate {
  return makeCertificate({ hosts, days, now: Date.now() }, random);
}

function file(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

function serverTls({ certPem, keyPem }: Certificate): ServerTls {
  const { raw } = new X509Certificate(certPem);
  return {
    context: createSecureContext({ cert: certPem, key: keyPem }),
    certificateHash: createHash("sha256").update(raw).digest(),
  };
}

void test("DER", () => {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
  assert.equal(hex(derInteger(Uint8Array.of(0, 0, 1))), "020101");
  assert.equal(hex(derInteger(Uint8Array.of(0x80))), "02020080");
  assert.equal(hex(derInteger(Uint8Array.of(0))), "020100");
  assert.equal(hex(derObjectIdentifier("1.2.840.113549.1.1.11")), "06092a864886f70d01010b");
  assert.equal(
    hex(derTime(Date.UTC(2049, 11, 31, 23, 59, 59))),
    `170d${Buffer.from("491231235959Z").toString("hex")}`,
  );
  assert.equal(hex(derTime(Date.UTC(2050, 0, 1))), `180f${Buffer.from("20500101000000Z").toString("hex")}`);
  assert.equal(hex(derUtf8String("x".repeat(300)).subarray(0, 4)), "0c82012c");
});

void test("a certificate says what was asked for, as others read it", () => {
  const hosts = ["db.example.com", "localhost", "127.0.0.1", "::1", "fe80::1:2", "2001:db8::ffff:1.2.3.4"];
  const { certPem, keyPem, expiresAt, fingerprint } = certificate(hosts, 20_000);
  const read = new X509Certificate(certPem);
  assert.ok(read.checkPrivateKey(createPrivateKey(keyPem)));
  assert.ok(read.verify(read.publicKey));
  assert.equal(read.subject, "CN=db.example.com");
  assert.equal(read.issuer, read.subject);
  assert.equal(read.ca, false);
  assert.equal(read.fingerprint256, fingerprint);
  assert.equal(Date.parse(read.validTo), Math.floor(expiresAt / 1000) * 1000);
  assert.ok(Date.parse(read.validFrom) < Date.now());
  assert.equal(read.checkHost("localhost"), "localhost");
  assert.equal(read.checkHost("example.com"), undefined);
  for (const address of hosts.slice(2)) assert.ok(read.checkIP(address), address);
  for (const bad of [[], ["a b"], [""], ["x".repeat(300)], ["a/b"], ["-"]]) {
    assert.throws(
      () => certificate(bad),
      (error) => error instanceof NeonError && error.code === ErrorCode.Usage,
    );
  }
});

void test("openssl accepts the certificate as its own authority", (t) => {
  const path = file("openssl.crt", certificate(["localhost"]).certPem);
  try {
    execFileSync("openssl", ["version"], { stdio: "ignore" });
  } catch {
    t.skip("there is no openssl");
    return;
  }
  execFileSync("openssl", ["verify", "-x509_strict", "-CAfile", path, path], { stdio: "pipe" });
});

void test("what each sslmode does with a server that has TLS, and with one that has not", async () => {
  const good = certificate(["127.0.0.1"]);
  const root = file("good.crt", good.certPem);
  const stranger = file("stranger.crt", certificate(["127.0.0.1"]).certPem);
  const elsewhere = certificate(["elsewhere.example.com"]);
  const elsewhereRoot = file("elsewhere.crt", elsewhere.certPem);
  await using withTls = await TestServer.start({ tls: serverTls(good) });
  await using without = await TestServer.start();
  await using wrongName = await TestServer.start({ tls: serverTls(elsewhere) });
  const attempt = async (
    server: TestServer,
    sslMode: SslMode,
    sslRootCert: string | undefined,
  ): Promise<string> => {
    try {
      await using client = await connectLibpq(server.target({ sslMode, sslRootCert }));
      assert.equal((await client.query("rows 1")).rows.length, 1);
      return client.encrypted ? "encrypted" : "plain";
    } catch (error) {
      assert.ok(error instanceof NeonError, String(error));
      return error.code;
    }
  };
  const expected: [SslMode, string | undefined, string, string, string][] = [
    // mode, file: with TLS, without, certificate for another name
    ["disable", undefined, "plain", "plain", "plain"],
    ["allow", undefined, "plain", "plain", "plain"],
    ["prefer", undefined, "encrypted", "plain", "encrypted"],
    ["require", undefined, "encrypted", "unreachable", "encrypted"],
    ["require", root, "encrypted", "unreachable", "unreachable"],
    ["require", stranger, "unreachable", "unreachable", "unreachable"],
    ["prefer", stranger, "plain", "plain", "plain"],
    ["verify-ca", root, "encrypted", "unreachable", "unreachable"],
    ["verify-ca", elsewhereRoot, "unreachable", "unreachable", "encrypted"],
    ["verify-ca", stranger, "unreachable", "unreachable", "unreachable"],
    ["verify-full", root, "encrypted", "unreachable", "unreachable"],
    ["verify-full", elsewhereRoot, "unreachable", "unreachable", "unreachable"],
    ["verify-full", stranger, "unreachable", "unreachable", "unreachable"],
    ["verify-full", join(directory, "missing"), "usage", "usage", "usage"],
    ["require", join(directory, "missing"), "usage", "usage", "usage"],
    ["disable", join(directory, "missing"), "plain", "plain", "plain"],
  ];
  for (const [mode, trusted, tls, plain, other] of expected) {
    const what = `${mode} ${trusted ?? ""}`;
    assert.equal(await attempt(withTls, mode, trusted), tls, `${what}, with TLS`);
    assert.equal(await attempt(without, mode, trusted), plain, `${what}, without TLS`);
    assert.equal(await attempt(wrongName, mode, trusted), other, `${what}, another name`);
  }
});

void test("data in the clear behind the offer of encryption is refused", async () => {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.write("SE\0\0\0\x10Mtrust me\0"));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const address = server.address();
    const port = typeof address === "object" && address ? address.port : 0;
    await using real = await TestServer.start();
    await assert.rejects(
      connectLibpq(real.target({ port, sslMode: "require" })),
      (error) => error instanceof NeonError && error.code === ErrorCode.Unreachable,
    );
  } finally {
    server.close();
  }
});

void test("large copies over TLS", async () => {
  await using server = await TestServer.start({ tls: serverTls(certificate(["127.0.0.1"])) });
  await using client = await connectLibpq(server.target({ sslMode: "require" }));
  let sizeBytes = 0;
  for await (const chunk of client.copyOut("out 300")) sizeBytes += chunk.length;
  assert.equal(sizeBytes, 300 * 2 ** 16);
  const channel = await client.copyBoth("echo");
  const payload = new Uint8Array(1_000_000).map((_, i) => i);
  await channel.send(payload);
  assert.deepEqual(await channel.receive(), payload);
  await channel.end();
  assert.equal(await channel.receive(), undefined);
});
