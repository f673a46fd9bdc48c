/** A compute on another machine, as far as that can be had on one: encrypted connections only, and a password. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { makeCertificate } from "../../src/pgwire/certificate.ts";
import { PgConnection } from "../../src/pgwire/client.ts";
import type { SslMode } from "../../src/pgwire/uri.ts";
import { Lab } from "../pageserver/branch-harness.ts";
import { freePort } from "../support/postgres.ts";
import { until } from "../e2e/support.ts";

const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

test("a compute that wants TLS and SCRAM is followed", { timeout: 300_000 }, async (t) => {
  await using lab = new Lab();
  const main = await lab.init([], 17, async (server) => {
    await server.start();
    await server.query("create role follower superuser replication login password 'it''s secret'");
    await server.stop();
  });
  const server = await lab.extract(main, { settings: { ssl: "on", password_encryption: "scram-sha-256" } });
  const { certPem, keyPem } = makeCertificate({ hosts: ["127.0.0.1"], days: 1, now: Date.now() }, random);
  const other = makeCertificate({ hosts: ["127.0.0.1"], days: 1, now: Date.now() }, random);
  const rootCert = join(lab.directory, "root.crt");
  const wrongCert = join(lab.directory, "wrong.crt");
  writeFileSync(rootCert, certPem);
  writeFileSync(wrongCert, other.certPem);
  writeFileSync(join(server.dataDir, "server.crt"), certPem);
  writeFileSync(join(server.dataDir, "server.key"), keyPem);
  writeFileSync(
    join(server.dataDir, "pg_hba.conf"),
    "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n",
  );
  server.ownDataDir();
  const port = await freePort();
  const address = { host: "127.0.0.1", port };
  const source = {
    ...address,
    user: "follower",
    password: "it's secret",
    sslMode: "verify-full" as const,
    sslRootCert: rootCert,
  };
  const { epoch } = await main.openWriter({ name: "test", source });
  await server.start({ "neon.writer_epoch": epoch, port });
  await server.query("create table t as select generate_series(1, 100000) i");
  await main.syncWithWriter(30_000);
  assert.equal(main.writer?.state, "streaming");
  const encrypted = await server.value(
    "select string_agg(distinct ssl::text, ',') from pg_stat_ssl join pg_stat_replication using (pid)",
  );
  assert.equal(encrypted, "true");
  await t.test("after a restart of the pageserver", async () => {
    const again = await lab.reopen(main);
    await until("it to stream", () => again.writer?.state === "streaming");
    await server.query("insert into t values (0)");
    await again.syncWithWriter(30_000);
    await again.closeWriter(epoch, "test");
  });

  const connect = async (sslMode: SslMode | undefined, changes: object = {}): Promise<string> => {
    try {
      await using connection = await PgConnection.connect({
        address: { ...address, sslMode, ...changes },
        credentials: { user: "follower", password: "it's secret", ...changes },
        parameters: { database: "postgres" },
        timeoutMs: 10_000,
      });
      const [result] = await connection.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()");
      return result?.rows[0]?.[0] ?? "";
    } catch (error) {
      return String(error);
    }
  };
  await t.test("as each sslmode wants it", async () => {
    assert.match(await connect(undefined), /no pg_hba.conf entry .* no encryption/);
    assert.match(await connect("disable"), /no pg_hba.conf entry/);
    for (const mode of ["allow", "prefer", "require"] as const) assert.equal(await connect(mode), "t", mode);
    assert.equal(await connect("verify-full", { sslRootCert: rootCert }), "t");
    assert.match(await connect("verify-full", { sslRootCert: wrongCert }), /TLS: /);
    assert.match(
      await connect("verify-ca", { sslRootCert: "/nonexistent" }),
      /certificates .* cannot be read/,
    );
    assert.match(await connect("verify-full", { sslRootCert: rootCert, host: "localhost" }), /TLS: /);
    assert.match(await connect("require", { password: "another" }), /password authentication failed/);
  });
  await t.test("where there is no encryption", async () => {
    await server.stop();
    writeFileSync(
      join(server.dataDir, "pg_hba.conf"),
      "local all all trust\nhost all all 127.0.0.1/32 password\n",
    );
    server.ownDataDir();
    server.configure({ ssl: "off" });
    await server.start({ port });
    assert.match(await connect("require"), /no encryption, but sslmode=require demands it/);
    // A password in clear text is shown on this machine only.
    assert.equal(await connect("prefer"), "f");
  });
});
