/** pageserver.toml and the command line. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommandLine, parseOptions } from "../../src/pageserver/options.ts";

const WHERE = { workdir: "/w", path: "/w/pageserver.toml" };

void test("defaults", () => {
  assert.deepEqual(parseOptions("", WHERE), {
    id: 1,
    workdir: "/w",
    listen: { host: "127.0.0.1", port: 9898 },
    authToken: undefined,
    listenLibpq: undefined,
    listenGrpc: undefined,
    pageRateLimit: 0,
    tls: undefined,
    jwtPublicKey: undefined,
    insecure: false,
    checkpointDistanceBytes: 64 * 1024 * 1024,
    checkpointTimeoutMs: 600_000,
    cacheBytes: 64 * 1024 * 1024,
    memoryLimitBytes: 544 * 1024 * 1024,
    verifyRedo: false,
    logLevel: "info",
    maintenance: {
      pitrIntervalMs: 7 * 86_400_000,
      gcHorizonBytes: 64 * 1024 * 1024,
      gcPeriodMs: 3_600_000,
      compactionPeriodMs: 20_000,
      flushedLayersMin: 8,
    },
  });
});

void test("every setting, in every unit", () => {
  const options = parseOptions(
    `listen = "[::1]:0"
     auth_token = "0123456789abcdef"
     listen_libpq = "0.0.0.0:64000"
     listen_grpc = "0.0.0.0:51051"
     page_rate_limit = 5000
     tls_cert = "server.crt"
     tls_key = "/k/server.key"
     jwt_public_key = "keys"
     insecure = true
     checkpoint_distance = "256 MB"
     checkpoint_timeout = "5min"
     cache_size = 1048576
     memory_limit = "1GB"
     verify_redo = true
     pitr_interval = "2h"
     gc_horizon_bytes = 0
     gc_period = 0
     compaction_period = "5s"
     compaction_threshold = 4
     log_level = "debug"`,
    WHERE,
  );
  assert.deepEqual(options, {
    id: 1,
    workdir: "/w",
    listen: { host: "::1", port: 0 },
    authToken: "0123456789abcdef",
    listenLibpq: { host: "0.0.0.0", port: 64_000 },
    listenGrpc: { host: "0.0.0.0", port: 51_051 },
    pageRateLimit: 5000,
    tls: { certPath: "/w/server.crt", keyPath: "/k/server.key" },
    jwtPublicKey: "/w/keys",
    insecure: true,
    checkpointDistanceBytes: 256 * 1024 * 1024,
    checkpointTimeoutMs: 300_000,
    cacheBytes: 1_048_576,
    memoryLimitBytes: 2 ** 30,
    verifyRedo: true,
    logLevel: "debug",
    maintenance: {
      pitrIntervalMs: 7_200_000,
      gcHorizonBytes: 0,
      gcPeriodMs: 0,
      compactionPeriodMs: 5000,
      flushedLayersMin: 4,
    },
  });
  for (const [text, bytes] of [
    ["2048kB", 2 ** 21],
    ["1GB", 2 ** 30],
    ["1048577B", 2 ** 20 + 1],
  ]) {
    assert.equal(parseOptions(`cache_size = "${text}"`, WHERE).cacheBytes, bytes);
  }
  for (const [text, ms] of [
    ["1500ms", 1500],
    ["2s", 2000],
    ["1h", 3_600_000],
    ["7d", 604_800_000],
  ]) {
    assert.equal(parseOptions(`checkpoint_timeout = "${text}"`, WHERE).checkpointTimeoutMs, ms);
  }
});

void test("what is refused, naming file and key", async (t) => {
  const cases: [string, RegExp][] = [
    ["listen = 9898", /"listen" must be HOST:PORT/],
    ['listen = "127.0.0.1"', /"listen"/],
    ['listen = "127.0.0.1:65536"', /"listen"/],
    ['listen = ":9898"', /"listen"/],
    ['auth_token = "short"', /"auth_token" must be at least 16/],
    ['auth_token = "0123456789 abcdef"', /"auth_token"/],
    ["auth_token = 12345678901234567", /"auth_token"|TOML/],
    ['listen_libpq = "0.0.0.0:64000"', /"listen_libpq" is 0\.0\.0\.0, .*tls_cert/],
    ['listen_grpc = "0.0.0.0:51051"', /"listen_grpc" is 0\.0\.0\.0, .*tls_cert/],
    ['listen_grpc = "0.0.0.0:51051"\ninsecure = true', /"auth_token" must be set, .*0\.0\.0\.0/],
    ["page_rate_limit = -1", /"page_rate_limit" must be a number from 0/],
    ['tls_cert = "a"', /"tls_key" must be set/],
    ['tls_key = "a"', /"tls_cert" must be set/],
    ["insecure = 1", /"insecure" must be true or false/],
    ['listen = "0.0.0.0:9898"\nauth_token = "0123456789abcdef"', /"listen" is 0\.0\.0\.0, .*set tls_cert/],
    ['listen = "0.0.0.0:9898"', /"auth_token" must be set/],
    ['checkpoint_distance = "64 parsecs"', /"checkpoint_distance" must be a size/],
    ["checkpoint_distance = 5", /"checkpoint_distance"/],
    ["checkpoint_distance = 1048576.5", /"checkpoint_distance"/],
    ["checkpoint_timeout = -1", /"checkpoint_timeout"/],
    ['checkpoint_timeout = "1y"', /"checkpoint_timeout"/],
    ['cache_size = "constructor"', /"cache_size"/],
    ['memory_limit = "300MB"', /"memory_limit" must be at least 384 MB where cache_size is 64 MB/],
    ['memory_limit = "1GB"\ncache_size = "1GB"', /"memory_limit" must be at least 1344 MB/],
    ['cache_size = "1constructor"', /"cache_size"/],
    ['log_level = "loud"', /"log_level" must be one of trace, debug/],
    ["checkpoint_distence = 1", /"checkpoint_distence" is not known/],
    ["[pageserver]", /"pageserver" is not known/],
    ["listen = ", /is no TOML/],
  ];
  for (const [text, message] of cases) {
    await t.test(text, () => {
      assert.throws(() => parseOptions(text, WHERE), { code: "usage", message });
      assert.throws(() => parseOptions(text, WHERE), { message: /^\/w\/pageserver\.toml: / });
    });
  }
});

void test("command line", () => {
  assert.deepEqual(parseCommandLine(["--workdir", "/x/../y"]), { kind: "run", workdir: "/y" });
  assert.deepEqual(parseCommandLine(["-D", "/y"]), { kind: "run", workdir: "/y" });
  assert.deepEqual(parseCommandLine(["--help"]), { kind: "help" });
  assert.deepEqual(parseCommandLine(["--version"]), { kind: "version" });
  for (const args of [[], ["--workdir"], ["--workdir", ""], ["x"], ["--frobnicate"]]) {
    assert.throws(() => parseCommandLine(args), { code: "usage" }, args.join(" "));
  }
});
