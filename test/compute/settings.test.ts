import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseWriterEpoch } from "../../src/base/ids.ts";
import {
  type ComputeSettings,
  fixedSettings,
  quoteSetting,
  renderPgHbaConf,
  renderPostgresqlConf,
} from "../../src/compute/settings.ts";
import { ComputePaths } from "../../src/compute/compute-paths.ts";
import type { ServerParameters } from "../../src/postgres/control-file.ts";

const parameters: ServerParameters = {
  walLevel: 1,
  walLogHints: false,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 0,
  maxLocksPerTransaction: 64,
  trackCommitTimestamp: false,
};
const control = { parameters, walSegmentSize: 16 << 20 };
const remote: ComputeSettings = {
  mode: "read-write",
  commit: "remote",
  port: 55432,
  socketDirectory: "/it's a path",
  epoch: parseWriterEpoch("a".repeat(32)),
};

describe("postgresql.conf", () => {
  it("sets per commit mode what makes a COMMIT safe", () => {
    const read = (settings: ComputeSettings): Map<string, string> => new Map(fixedSettings(settings));
    const safe = read({ ...remote, commit: "local" });
    const standby = read({ ...remote, mode: "read-only", epoch: null });
    for (const name of ["fsync", "full_page_writes", "restart_after_crash"]) {
      assert.equal(read(remote).get(name), "off");
      assert.equal(safe.get(name), "on");
      assert.equal(standby.get(name), "off");
    }
    assert.equal(read(remote).get("synchronous_standby_names"), "pageserver");
    assert.equal(safe.get("synchronous_standby_names"), "");
    assert.equal(standby.get("synchronous_standby_names"), "");
    assert.equal(safe.get("neon.writer_epoch"), "a".repeat(32));
    assert.equal(standby.has("neon.writer_epoch"), false);
    assert.equal(read({ ...remote, socketDirectory: null }).get("unix_socket_directories"), "");
  });

  it("is complete, quoted, and lets what neon decides come last", () => {
    const text = renderPostgresqlConf(remote, control, "/home/o'neil/neon-user.conf");
    assert.doesNotMatch(text, /\{\{|\}\}|undefined/);
    const include = text.indexOf("include_if_exists '/home/o''neil/neon-user.conf'");
    assert.ok(include > text.indexOf("shared_buffers = 128MB"));
    assert.ok(include < text.indexOf("port = '55432'"));
    assert.match(text, /^unix_socket_directories = '\/it''s a path'$/m);
    assert.match(text, /^neon\.writer_epoch = 'a{32}'$/m);
    for (const line of text.split("\n")) assert.match(line, /^(#.*|[\w.]+ = \S.*|include_if_exists '.*'|)$/);
  });

  it("is never below what the database has been running with", () => {
    const more = { ...parameters, maxConnections: 500, maxPreparedTransactions: 7, maxWalSenders: 3 };
    const text = renderPostgresqlConf(
      remote,
      { ...control, parameters: { ...more, trackCommitTimestamp: true } },
      "/x",
    );
    assert.match(text, /^max_connections = 500$/m);
    assert.match(text, /^max_prepared_transactions = 7$/m);
    assert.match(text, /^max_wal_senders = 10$/m);
    assert.match(text, /^track_commit_timestamp = on$/m);
  });

  it("has room for a few segments of WAL, whatever their size", () => {
    const sizes = (megabytes: number): string[] => {
      const text = renderPostgresqlConf(remote, { parameters, walSegmentSize: megabytes << 20 }, "/x");
      return [...text.matchAll(/^(?:min_wal|max_wal|wal_keep)_size = (\w+)$/gm)].map(
        (match) => match[1] ?? "",
      );
    };
    assert.deepEqual(sizes(1), ["1GB", "80MB", "64MB"]);
    assert.deepEqual(sizes(16), ["1GB", "80MB", "64MB"]);
    assert.deepEqual(sizes(64), ["1GB", "128MB", "64MB"]);
    assert.deepEqual(sizes(1024), ["4GB", "2GB", "1GB"]);
  });

  it("refuses what cannot be quoted", () => {
    assert.equal(quoteSetting("a\\b'c"), "'a\\\\b''c'");
    assert.throws(() => quoteSetting("a\nfsync = off"), /cannot stand/);
  });
});

describe("pg_hba.conf", () => {
  it("lets in this machine only, replication included", () => {
    const lines = renderPgHbaConf()
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => line.split(/\s+/));
    assert.equal(lines.length, 6);
    for (const line of lines) {
      assert.equal(line.at(-1), "trust");
      if (line[0] === "host") assert.match(line[3] ?? "", /^(127\.0\.0\.1\/32|::1\/128)$/);
      else assert.equal(line[0], "local");
    }
    assert.equal(lines.filter((line) => line[1] === "replication").length, 3);
  });
});

describe("socket directory", () => {
  it("is given up where its path would be too long", () => {
    assert.equal(new ComputePaths("/short/main").socketDirectory(5432), "/short/main/socket");
    assert.equal(new ComputePaths(`/${"x".repeat(90)}`).socketDirectory(5432), null);
    assert.equal(new ComputePaths(`/${"ö".repeat(45)}`).socketDirectory(5432), null);
  });
});
