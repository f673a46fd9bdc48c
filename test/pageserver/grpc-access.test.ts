/** Who may call what over gRPC: every method, with every kind of credentials; metadata; TLS. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import { PAGE_METHODS, type PageMethod } from "../../src/base/page-api/page-model.ts";
import { MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import {
  encodeCheckRelExistsRequest,
  encodeGetBaseBackupRequest,
  encodeGetDbSizeRequest,
  encodeGetPageRequest,
  encodeGetRelSizeRequest,
  encodeGetSlruSegmentRequest,
  encodeLeaseLsnRequest,
} from "../../src/base/page-api/page-requests.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { PageApiClient } from "../../src/client/page-api.ts";
import { makeCertificate } from "../../src/pgwire/certificate.ts";
import { RawClient, type RawResult, frame } from "../support/grpc-raw.ts";
import { REL, STAGE_TENANT, STAGE_TIMELINE, START, Stage, pageRequest } from "./grpc-stage.ts";
import { Harness, TENANT, TOKEN, TempDirectory } from "./harness.ts";

const OTHER = parseTenantId("b".repeat(32));
const read = { lsn: MAX_LSN, notModifiedSince: START };

const REQUESTS: Readonly<Record<PageMethod, Uint8Array>> = {
  GetPages: encodeGetPageRequest(pageRequest([0])),
  GetRelSize: encodeGetRelSizeRequest({ read, rel: REL, allowMissing: false }),
  CheckRelExists: encodeCheckRelExistsRequest({ read, rel: REL }),
  GetDbSize: encodeGetDbSizeRequest({ read, dbOid: 5 }),
  GetSlruSegment: encodeGetSlruSegmentRequest({ read, kind: 0, segment: 0 }),
  GetBaseBackup: encodeGetBaseBackupRequest({ lsn: undefined, replica: false, full: true, gzip: false }),
  LeaseLsn: encodeLeaseLsnRequest({ lsn: toLsn(START + 50) }),
};

const Code = { Ok: 0, Invalid: 3, NotFound: 5, Denied: 7, Unauthenticated: 16 } as const;

type Metadata = Readonly<Record<string, string | undefined>>;

async function call(client: RawClient, method: PageMethod, metadata: Metadata): Promise<RawResult> {
  const headers: Record<string, string> = {};
  const all = {
    "neon-tenant-id": STAGE_TENANT,
    "neon-timeline-id": STAGE_TIMELINE,
    "neon-shard-id": "0000",
    ...metadata,
  };
  for (const [name, value] of Object.entries(all)) if (value !== undefined) headers[name] = value;
  return client.call(`/page_api.PageService/${method}`, headers).send(frame(REQUESTS[method])).end().result;
}

void test("a token of one tenant opens nothing of another, by no method", async () => {
  await using stage = await Stage.start();
  await using client = await RawClient.connect(stage.service.port);
  const own = `Bearer ${await stage.token()}`;
  const foreign = `Bearer ${await stage.token(OTHER)}`;
  for (const method of PAGE_METHODS) {
    const good = await call(client, method, { authorization: own });
    assert.ok(good.code !== Code.Denied && good.code !== Code.Unauthenticated, `${method}: ${good.details}`);
    // The same for a tenant that exists and for one that does not.
    for (const [authorization, tenant] of [
      [foreign, STAGE_TENANT],
      [own, OTHER],
      [own, "d".repeat(32)],
    ] as const) {
      const refused = await call(client, method, { authorization, "neon-tenant-id": tenant });
      assert.deepEqual([refused.code, refused.messages], [Code.Denied, []], `${method}: ${refused.details}`);
      assert.match(refused.details, /may not work with tenant/);
    }
    for (const [authorization, code] of [
      [undefined, Code.Unauthenticated],
      ["Bearer nonsense", Code.Invalid],
      ["Digest x", Code.Invalid],
      [`${own.slice(0, -6)}AAAAAA`, Code.Unauthenticated],
    ] as const) {
      const refused = await call(client, method, { authorization });
      assert.deepEqual([refused.code, refused.messages], [code, []], `${method} ${authorization}`);
    }
  }
});

void test("metadata that is missing or wrong", async () => {
  await using stage = await Stage.start();
  await using client = await RawClient.connect(stage.service.port);
  const authorization = `Bearer ${await stage.token()}`;
  const wrong: [string, string | undefined, RegExp][] = [
    ["neon-tenant-id", undefined, /neon-tenant-id is missing/],
    ["neon-tenant-id", "aaaa", /neon-tenant-id has 32/],
    ["neon-timeline-id", undefined, /neon-timeline-id is missing/],
    ["neon-timeline-id", "x".repeat(32), /neon-timeline-id has 32/],
    ["neon-shard-id", undefined, /neon-shard-id is missing/],
    ["neon-shard-id", "0", /neon-shard-id has four/],
    ["neon-shard-id", "0404", /neon-shard-id has four/],
  ];
  for (const method of PAGE_METHODS) {
    for (const [name, value, message] of wrong) {
      const { code, details } = await call(client, method, { authorization, [name]: value });
      assert.equal(code, Code.Invalid, `${method} ${name}`);
      assert.match(details, message);
    }
    const unknown = await call(client, method, { authorization, "neon-timeline-id": "e".repeat(32) });
    assert.equal(unknown.code, Code.NotFound, method);
  }
});

void test("the auth_token of a pageserver, and one without authentication", async () => {
  await using harness = await Harness.withMain();
  const timeline = await harness.timelineIdOf("main");
  await using client = await RawClient.connect(harness.server.grpcPort ?? 0);
  const metadata = { "neon-tenant-id": TENANT, "neon-timeline-id": timeline };
  const lease = (authorization: string | undefined): Promise<RawResult> =>
    call(client, "LeaseLsn", { ...metadata, authorization });
  assert.equal((await lease(undefined)).code, Code.Unauthenticated);
  assert.equal((await lease(`Bearer ${TOKEN}x`)).code, Code.Unauthenticated);
  // Known, and let in: this tenant has timelines without pages.
  const known = await call(client, "GetRelSize", { ...metadata, authorization: `Bearer ${TOKEN}` });
  assert.equal(known.code, 9, known.details);
  await using open = await Harness.start({ token: "" });
  await using other = await RawClient.connect(open.server.grpcPort ?? 0);
  const answer = await call(other, "LeaseLsn", metadata);
  assert.equal(answer.code, Code.NotFound);
});

void test("the same port takes TLS, and a client that trusts another certificate does not go on", async () => {
  using directory = new TempDirectory();
  const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
  const make = (): ReturnType<typeof makeCertificate> =>
    makeCertificate({ hosts: ["localhost", "127.0.0.1"], days: 1, now: Date.now() }, random);
  const { certPem, keyPem } = make();
  const [certPath, keyPath] = [join(directory.path, "server.crt"), join(directory.path, "server.key")];
  writeFileSync(certPath, certPem);
  writeFileSync(keyPath, keyPem, { mode: 0o600 });
  await using harness = await Harness.start({ tls: { certPath, keyPath } });
  const target = {
    address: `localhost:${harness.server.grpcPort}`,
    tenantId: TENANT,
    timelineId: STAGE_TIMELINE,
    token: TOKEN,
  };
  using plain = new PageApiClient(target);
  using secure = new PageApiClient({ ...target, rootCertificate: Buffer.from(certPem) });
  using stranger = new PageApiClient({ ...target, rootCertificate: Buffer.from(make().certPem) });
  const request = { lsn: toLsn(8) };
  await assert.rejects(plain.leaseLsn(request), /no tenant/);
  console.log(2);
  await assert.rejects(secure.leaseLsn(request), /no tenant/);
  await assert.rejects(stranger.leaseLsn(request), { code: ErrorCode.Unreachable });
});
