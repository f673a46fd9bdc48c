/**
 * A request for each route of the HTTP API, each command of the libpq service, each replication command and each method of
 * the page API, made of what a target has. Whoever adds one of those adds it here: the tests compare the lists.
 */
import { MAX_LSN, parseLsn, toLsn } from "../../src/base/lsn.ts";
import {
  encodeCheckRelExistsRequest,
  encodeGetBaseBackupRequest,
  encodeGetDbSizeRequest,
  encodeGetPageRequest,
  encodeGetRelSizeRequest,
  encodeGetSlruSegmentRequest,
  encodeLeaseLsnRequest,
} from "../../src/base/page-api/page-requests.ts";
import type { PageMethod } from "../../src/base/page-api/page-model.ts";
import type { REPLICATION_COMMANDS } from "../../src/pageserver/service/libpq/replication-session.ts";
import { pageRequest } from "./grpc-stage.ts";
import type { Target } from "./foreign-world.ts";

const T = "/v1/tenant/:tenant";
const TL = `${T}/timeline/:timeline`;

export interface RouteRequest {
  readonly query?: string;
  /** Text as it is, otherwise JSON. */
  readonly body?: unknown;
  /** What `:name` stands for. */
  readonly name?: string;
  /** Names something beside the tenant, by which one may try to reach into another one. */
  readonly reaches?: true;
}

type Make = (target: Target) => RouteRequest;

const BRANCH: Make = ({ branch }) => ({ name: branch, reaches: true });
const LSN: Make = ({ lsn }) => ({ body: { lsn }, reaches: true });
const CONFIG: Make = ({ tenant }) => ({ body: { tenant_id: tenant, gc_horizon: 0 } });
const MINE = "9".repeat(32);
/** For `getpage`: the first page of pg_class of template1. */
const KEY = "000000067F00000001000004EB0000000000";
const SOURCE = { host: "127.0.0.1", port: 1, user: "x" };
const VERIFIER = `SCRAM-SHA-256$4096:${"A".repeat(22)}==$${"A".repeat(43)}=:${"A".repeat(43)}=`;

/** By `METHOD pattern`, as in the document of the API; what only has a path needs no entry. */
const REQUESTS: Readonly<Record<string, Make>> = {
  "POST /v1/user": ({ tenant }) => ({ body: { name: "mallory", verifier: VERIFIER, tenants: [tenant] } }),
  "DELETE /v1/user/:name": () => ({ name: "alice" }),
  "POST /v1/reload_auth_validation_keys": () => ({ body: {} }),
  "POST /v1/tenant": ({ tenant }) => ({ body: { tenant_id: tenant, pg_version: 17 } }),
  [`PUT ${T}/location_config`]: () => ({ body: { mode: "AttachedSingle", tenant_conf: { gc_horizon: 0 } } }),
  "PUT /v1/tenant/config": CONFIG,
  "PATCH /v1/tenant/config": CONFIG,
  [`POST ${T}/wait_lsn`]: ({ timeline, lsn }) => ({ body: { [timeline]: lsn, timeout: 0 }, reaches: true }),
  [`POST ${T}/import`]: ({ branch }) => ({ query: `branch=${branch}`, body: "no tar", reaches: true }),
  [`POST ${T}/branch`]: ({ timeline, lsn }) => ({
    body: { name: "mine", point: { timeline_id: timeline, lsn } },
    reaches: true,
  }),
  [`GET ${T}/branch/:name`]: BRANCH,
  [`DELETE ${T}/branch/:name`]: BRANCH,
  [`POST ${T}/branch/:name/rename`]: ({ branch }) => ({
    name: branch,
    body: { new_name: "mine" },
    reaches: true,
  }),
  [`POST ${T}/repair`]: () => ({ body: { apply: false } }),
  [`POST ${T}/gc`]: () => ({ body: { dry_run: true, gc_horizon_bytes: 0, pitr_interval_ms: 0 } }),
  [`POST ${T}/compact`]: ({ timeline }) => ({ body: { timeline_id: timeline }, reaches: true }),
  [`POST ${T}/timeline`]: ({ timeline, pastLsn }) => ({
    body: { new_timeline_id: MINE, ancestor_timeline_id: timeline, ancestor_start_lsn: pastLsn },
    reaches: true,
  }),
  [`PUT ${TL}/import_basebackup`]: ({ lsn }) => ({ query: `end_lsn=${lsn}`, body: "no tar", reaches: true }),
  [`PUT ${TL}/import_wal`]: ({ lsn, pastLsn }) => ({
    query: `start_lsn=${pastLsn}&end_lsn=${lsn}`,
    body: "no tar",
    reaches: true,
  }),
  [`GET ${TL}/layer/:name`]: ({ layer }) => ({ name: layer, reaches: true }),
  [`DELETE ${TL}/layer/:name`]: ({ layer }) => ({ name: layer, reaches: true }),
  [`GET ${TL}/keyspace`]: ({ lsn }) => ({ query: `at_lsn=${lsn}`, reaches: true }),
  [`GET ${TL}/getpage`]: ({ lsn }) => ({ query: `key=${KEY}&lsn=${lsn}`, reaches: true }),
  [`GET ${TL}/get_lsn_by_timestamp`]: () => ({
    query: "timestamp=2026-01-01T00:00:00Z&with_lease=true",
    reaches: true,
  }),
  [`GET ${TL}/get_timestamp_of_lsn`]: ({ lsn }) => ({ query: `lsn=${lsn}`, reaches: true }),
  [`POST ${TL}/lsn_lease`]: LSN,
  [`PUT ${TL}/do_gc`]: () => ({ body: { gc_horizon: 0 }, reaches: true }),
  [`PUT ${TL}/compact`]: () => ({ body: {}, reaches: true }),
  [`PUT ${TL}/checkpoint`]: () => ({ body: {}, reaches: true }),
  [`POST ${TL}/resolve`]: LSN,
  [`POST ${TL}/commit_time`]: LSN,
  [`POST ${TL}/writer`]: () => ({ body: { name: "mine", source: SOURCE, takeover: true }, reaches: true }),
  [`POST ${TL}/wait`]: ({ lsn }) => ({ body: { lsn, timeout_ms: 1 }, reaches: true }),
  [`GET ${TL}/basebackup`]: ({ lsn }) => ({ query: `lsn=${lsn}&read_only=true`, reaches: true }),
  [`POST ${TL}/recovery`]: ({ lsn }) => ({ body: { lsns: [lsn] }, reaches: true }),
  [`GET ${TL}/recovery`]: ({ lsn, pastLsn }) => ({
    query: `checkpoint=${pastLsn}&lsn=${lsn}`,
    reaches: true,
  }),
  [`POST ${TL}/verify`]: ({ lsn }) => ({ body: { directory: "/tmp", lsn }, reaches: true }),
  [`POST ${TL}/lease`]: ({ lsn }) => ({ body: { name: "mine", lsn, duration_ms: 60_000 }, reaches: true }),
  [`DELETE ${TL}/lease/:name`]: ({ lease }) => ({ name: lease, reaches: true }),
  "GET /v1/branch/:tenant/:name": BRANCH,
  "POST /v1/branch": ({ tenant, timeline, pastLsn }) => ({
    body: { tenant_id: tenant, name: "mine", start_point: `${timeline}@${pastLsn}` },
    reaches: true,
  }),
};

/** The request, with its path; throws for a route that needs more than its path and is not in the table. */
export function requestFor(route: string, target: Target): RouteRequest & { method: string; path: string } {
  const [method = "", pattern = ""] = route.split(" ");
  const make = REQUESTS[route];
  if (make === undefined && (pattern.includes(":name") || !["GET", "DELETE"].includes(method))) {
    throw new Error(`${route} is new: put into REQUESTS what it is asked with`);
  }
  const request = make?.(target) ?? {};
  const parts: Record<string, string> = { ...target, name: request.name ?? "" };
  const path = pattern.replaceAll(/:([a-z_]+)/g, (_, name: string) => encodeURIComponent(parts[name] ?? ""));
  const reaches = request.reaches ?? (/:(timeline|epoch)/.test(pattern) ? true : undefined);
  return {
    ...request,
    ...(reaches ? { reaches } : {}),
    method,
    path: request.query === undefined ? path : `${path}?${request.query}`,
  };
}

/** What a key to one tenant gets where no tenant is in the path. */
export const WITHOUT_TENANT: Readonly<Record<string, "open" | "own" | "declined">> = {
  "GET /v1/status": "open",
  "GET /v1/openapi.json": "open",
  "GET /swagger.yml": "open",
  "GET /v1/doc": "open",
  "GET /v1/tenant": "own",
  "GET /metrics": "declined",
  "GET /v1/utilization": "declined",
  "GET /v1/user": "declined",
  "POST /v1/user": "declined",
  "DELETE /v1/user/:name": "declined",
  "POST /v1/reload_auth_validation_keys": "declined",
  "POST /v1/tenant": "declined",
  "PUT /v1/tenant/config": "declined",
  "PATCH /v1/tenant/config": "declined",
  "POST /v1/branch": "declined",
};

export interface CommandRequest {
  readonly text: string;
  /** Answered by CopyIn; all others can be asked as queries as long as they are refused. */
  readonly copyIn?: true;
  /** Only for whoever may do everything, whatever the tenant. */
  readonly everything?: true;
  /** Names no tenant: harmless. */
  readonly harmless?: true;
  /** Names a tenant and nothing else. */
  readonly tenantOnly?: true;
}

const ORIGIN = { host: "127.0.0.1", port: 1, user: "x", sslmode: "disable", connect_timeout_ms: 1000 };

/** By name of the command. */
export const COMMANDS: Readonly<Record<string, (target: Target) => CommandRequest>> = {
  status: () => ({ text: "status", harmless: true }),
  set: () => ({ text: "set x = 1", harmless: true }),
  tenant_list: () => ({ text: "tenant_list", harmless: true }),
  identify_system: ({ tenant }) => ({ text: `identify_system ${tenant}`, tenantOnly: true }),
  show: ({ tenant }) => ({ text: `show ${tenant}`, tenantOnly: true }),
  branch_list: ({ tenant }) => ({ text: `branch_list ${tenant}`, tenantOnly: true }),
  tenant_create: ({ tenant }) => ({ text: `tenant_create ${tenant} 17`, tenantOnly: true }),
  branch_create: ({ tenant, branch }) => ({ text: `branch_create ${tenant} mine ${branch}` }),
  branch_delete: ({ tenant, branch }) => ({ text: `branch_delete ${tenant} ${branch}` }),
  get_lsn_by_timestamp: (target) => ({ text: `get_lsn_by_timestamp ${both(target)} 2099-01-01T00:00:00Z` }),
  get_last_record_rlsn: (target) => ({ text: `get_last_record_rlsn ${both(target)}` }),
  checkpoint: (target) => ({ text: `checkpoint ${both(target)}` }),
  compact: (target) => ({ text: `compact ${both(target)}` }),
  do_gc: ({ tenant, timeline }) => ({ text: `do_gc ${tenant} ${timeline} 0`, tenantOnly: true }),
  "lease lsn": (target) => ({ text: `lease lsn ${both(target)} ${target.lsn}` }),
  "import basebackup": (target) => ({
    text: `import basebackup ${both(target)} ${target.pastLsn} ${target.lsn} 17`,
    copyIn: true,
  }),
  "import wal": (target) => ({
    text: `import wal ${both(target)} ${target.pastLsn} ${target.lsn}`,
    copyIn: true,
  }),
  callmemaybe: (target) => ({
    text: `callmemaybe ${both(target)} host=127.0.0.1 port=1 user=x`,
    everything: true,
  }),
  basebackup: (target) => ({ text: `basebackup ${both(target)} ${target.lsn}` }),
  fullbackup: (target) => ({ text: `fullbackup ${both(target)} ${target.lsn}` }),
  pagestream_v2: (target) => ({ text: `pagestream_v2 ${both(target)}` }),
  pagestream_v3: (target) => ({ text: `pagestream_v3 ${both(target)}` }),
  branch_push: ({ tenant, branch }) => ({
    text: `branch_push ${JSON.stringify({ tenant_id: tenant, branch })}`,
    tenantOnly: true,
  }),
  branch_pull: ({ tenant, branch }) => ({
    text: `branch_pull ${JSON.stringify({ tenant_id: tenant, branch })}`,
    tenantOnly: true,
  }),
  perform_push: (target) => ({ text: `perform_push ${transfer(target)}`, everything: true }),
  perform_pull: (target) => ({ text: `perform_pull ${transfer(target)}`, everything: true }),
  remote_branches: ({ tenant }) => ({
    text: `remote_branches ${JSON.stringify({ origin: ORIGIN, tenant_id: tenant })}`,
    everything: true,
  }),
};

function both({ tenant, timeline }: Target): string {
  return `${tenant} ${timeline}`;
}

function transfer({ tenant, branch }: Target): string {
  return JSON.stringify({ tenant_id: tenant, branch, other: branch, dry_run: false, origin: ORIGIN });
}

/** Replication commands on a connection to the own tenant, with the other one's names. */
export const REPLICATION_REQUESTS: Readonly<
  Record<(typeof REPLICATION_COMMANDS)[number], (target: Target) => string>
> = {
  IDENTIFY_SYSTEM: () => "IDENTIFY_SYSTEM",
  SHOW: () => "SHOW wal_segment_size",
  TIMELINE_HISTORY: () => "TIMELINE_HISTORY 1",
  READ_REPLICATION_SLOT: ({ slot }) => `READ_REPLICATION_SLOT ${slot}`,
  CREATE_REPLICATION_SLOT: ({ slot }) => `CREATE_REPLICATION_SLOT ${slot} TEMPORARY PHYSICAL`,
  DROP_REPLICATION_SLOT: ({ slot }) => `DROP_REPLICATION_SLOT ${slot}`,
  START_REPLICATION: ({ slot, lsn }) => `START_REPLICATION SLOT ${slot} PHYSICAL ${lsn}`,
  ALTER_REPLICATION_SLOT: ({ slot }) => `ALTER_REPLICATION_SLOT ${slot} ( FAILOVER false )`,
  UPLOAD_MANIFEST: () => "UPLOAD_MANIFEST",
  // Of which there is nothing else here.
  BASE_BACKUP: ({ timeline }) => `BASE_BACKUP ( LABEL '${timeline}', TARGET 'server' )`,
  SELECT: () => "SELECT pg_catalog.set_config('search_path', '', false)",
};

const REL = { spcOid: 1663, dbOid: 1, relNumber: 1259, fork: 0 };

/** By name of the method. */
export const METHODS: Readonly<Record<PageMethod, (target: Target) => Uint8Array>> = {
  GetPages: (target) => encodeGetPageRequest({ ...pageRequest([0]), rel: REL, read: readAt(target) }),
  GetRelSize: (target) => encodeGetRelSizeRequest({ read: readAt(target), rel: REL, allowMissing: true }),
  CheckRelExists: (target) => encodeCheckRelExistsRequest({ read: readAt(target), rel: REL }),
  GetDbSize: (target) => encodeGetDbSizeRequest({ read: readAt(target), dbOid: 5 }),
  GetSlruSegment: (target) => encodeGetSlruSegmentRequest({ read: readAt(target), kind: 0, segment: 0 }),
  GetBaseBackup: () =>
    encodeGetBaseBackupRequest({ lsn: undefined, replica: false, full: true, gzip: false }),
  LeaseLsn: ({ lsn }) => encodeLeaseLsnRequest({ lsn: parseLsn(lsn) ?? MAX_LSN }),
};

function readAt({ lsn }: Target): { lsn: typeof MAX_LSN; notModifiedSince: typeof MAX_LSN } {
  return { lsn: MAX_LSN, notModifiedSince: parseLsn(lsn) ?? toLsn(8) };
}
