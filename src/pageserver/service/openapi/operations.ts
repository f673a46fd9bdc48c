/** Every route with what it takes and answers; a test compares the list with the router's, another one real answers. */
import type { Method } from "../router.ts";
import { PARAMETERS, type Schema, type SCHEMAS, TENANT_SETTINGS } from "./schemas.ts";

export interface Operation {
  readonly summary: string;
  /** Parameters of the query; none is required unless its description says so. */
  readonly query?: Readonly<Record<string, Schema>>;
  /** Fields of the JSON body; `upload`: the body is a tar. */
  readonly body?: Readonly<Record<string, Schema>> | "upload";
  readonly requiredBody?: readonly string[];
  readonly status?: number;
  /** A schema, a list of it, lines of which the last holds it as `result`, or bytes. */
  readonly answer:
    | keyof typeof SCHEMAS
    | { readonly listOf: keyof typeof SCHEMAS }
    | { readonly lines: keyof typeof SCHEMAS }
    | "bytes"
    | "text"
    | "nothing";
}

const { id, lsn, time, text, boolean, count } = PARAMETERS;
const object: Schema = { type: "object" };
const moment = { lsn, timestamp_ms: count, timestamp_us: count };
/** Fields that may be null as well. */
function anyOf(names: readonly string[]): Record<string, Schema> {
  return Object.fromEntries(names.map((name) => [name, {}]));
}

const T = "/v1/tenant/:tenant";
const TL = `${T}/timeline/:timeline`;

const SERVER: Readonly<Record<string, Operation>> = {
  "GET /v1/status": { summary: "Who answers, and whether it is ready", answer: "Status" },
  "GET /metrics": { summary: "Measurements in Prometheus' text format", answer: "text" },
  "GET /v1/openapi.json": { summary: "This document", answer: "Empty" },
  "GET /swagger.yml": { summary: "This document, as YAML", answer: "text" },
  "GET /v1/doc": { summary: "This document, for people", answer: "text" },
  "GET /v1/utilization": { summary: "How full the server is", answer: "Utilization" },
  "GET /v1/user": { summary: "Users with passwords", answer: "Users" },
  "POST /v1/user": {
    summary: "Lets somebody in; `verifier` is made of the password",
    body: { name: text, verifier: text, tenants: { type: "array", items: id } },
    requiredBody: ["name", "verifier"],
    status: 201,
    answer: "User",
  },
  "DELETE /v1/user/:name": { summary: "Lets a user in no longer", answer: "Removed" },
  "POST /v1/reload_auth_validation_keys": { summary: "Reads the keys of tokens again", answer: "Keys" },
};

const TENANTS: Readonly<Record<string, Operation>> = {
  "GET /v1/tenant": { summary: "Tenants that the client may work with", answer: { listOf: "Tenant" } },
  "POST /v1/tenant": {
    summary: "Makes a tenant",
    body: { tenant_id: id, pg_version: count },
    requiredBody: ["pg_version"],
    status: 201,
    answer: "Tenant",
  },
  [`GET ${T}`]: { summary: "A tenant and its timelines", answer: "TenantDetails" },
  [`DELETE ${T}`]: { summary: "Deletes a tenant with all its data", answer: "Deleted" },
  [`PUT ${T}/location_config`]: {
    summary: "Makes a tenant if it is not there",
    body: { mode: text, generation: count, secondary_conf: {}, tenant_conf: object, pg_version: count },
    requiredBody: ["mode"],
    answer: "TenantLocation",
  },
  [`GET ${T}/config`]: { summary: "Its settings: its own, and those that hold", answer: "TenantConfig" },
  "PUT /v1/tenant/config": {
    summary: "Replaces the settings of a tenant",
    body: { tenant_id: id, ...TENANT_SETTINGS },
    requiredBody: ["tenant_id"],
    answer: "TenantConfig",
  },
  "PATCH /v1/tenant/config": {
    summary: "Changes settings of a tenant; null takes one away",
    body: { tenant_id: id, ...anyOf(Object.keys(TENANT_SETTINGS)) },
    requiredBody: ["tenant_id"],
    answer: "TenantConfig",
  },
  [`POST ${T}/wait_lsn`]: {
    summary: "Waits until timelines have got so far: LSNs by timeline id, and a timeout",
    body: { timeout: {} },
    answer: "ReachedTimelines",
  },
  [`POST ${T}/import`]: {
    summary: "A root timeline and its branch from a data directory",
    query: { branch: text, timeline_id: id },
    body: "upload",
    status: 201,
    answer: "Imported",
  },
  [`GET ${T}/branch`]: { summary: "All branches", answer: "Branches" },
  [`POST ${T}/branch`]: {
    summary: "Makes a branch",
    body: { name: text, point: { type: "object", properties: { branch: text, timeline_id: id, ...moment } } },
    requiredBody: ["name", "point"],
    status: 201,
    answer: "CreatedBranch",
  },
  [`GET ${T}/branch/:name`]: { summary: "A branch", answer: "Branch" },
  [`DELETE ${T}/branch/:name`]: { summary: "Deletes a branch", answer: "Deleted" },
  [`POST ${T}/branch/:name/rename`]: {
    summary: "Renames a branch",
    body: { new_name: text },
    requiredBody: ["new_name"],
    answer: "Branch",
  },
  [`GET ${T}/fsck`]: { summary: "Verifies all files", answer: { lines: "Fsck" } },
  [`POST ${T}/repair`]: {
    summary: "Does something about damage, or says what could be done",
    body: { apply: boolean },
    requiredBody: ["apply"],
    answer: { lines: "Repair" },
  },
  [`POST ${T}/gc`]: {
    summary: "Removes history that is not kept any more",
    body: { dry_run: boolean, pitr_interval_ms: count, gc_horizon_bytes: count },
    answer: { lines: "Gc" },
  },
  [`POST ${T}/compact`]: {
    summary: "Merges layers and makes images",
    body: { timeline_id: id },
    answer: { lines: "Compaction" },
  },
  [`GET ${T}/du`]: { summary: "Where the bytes are", answer: "DiskUsage" },
};

const TIMELINES: Readonly<Record<string, Operation>> = {
  [`GET ${T}/timeline`]: { summary: "All timelines", answer: { listOf: "Timeline" } },
  [`GET ${T}/timeline_and_offloaded`]: {
    summary: "All timelines; none is anywhere else",
    answer: "TimelinesAndOffloaded",
  },
  [`POST ${T}/timeline`]: {
    summary: "A timeline on top of another one",
    body: {
      new_timeline_id: id,
      ancestor_timeline_id: id,
      ancestor_start_lsn: lsn,
      pg_version: count,
      name: text,
    },
    requiredBody: ["new_timeline_id", "ancestor_timeline_id"],
    status: 201,
    answer: "Timeline",
  },
  [`GET ${TL}`]: { summary: "A timeline", answer: "Timeline" },
  [`DELETE ${TL}`]: { summary: "Deletes a timeline with its branches", status: 202, answer: "Deleted" },
  [`PUT ${TL}/import_basebackup`]: {
    summary: "A root timeline from a data directory",
    query: { base_lsn: lsn, end_lsn: lsn, pg_version: count },
    body: "upload",
    status: 201,
    answer: "Timeline",
  },
  [`PUT ${TL}/import_wal`]: {
    summary: "Goes on with an imported timeline, from segments of WAL",
    query: { start_lsn: lsn, end_lsn: lsn },
    body: "upload",
    answer: "Timeline",
  },
  [`GET ${TL}/layer`]: { summary: "What is in memory and in files", answer: "LayerMap" },
  [`GET ${TL}/layer/:name`]: { summary: "A layer file", answer: "bytes" },
  [`DELETE ${TL}/layer/:name`]: {
    summary: "Leaves a layer where it is: there is no other place",
    status: 304,
    answer: "nothing",
  },
  [`GET ${TL}/keyspace`]: {
    summary: "Blocks of relations that there are",
    query: { at_lsn: lsn },
    answer: "Keyspace",
  },
  [`GET ${TL}/getpage`]: {
    summary: "A page, or the size of a relation",
    query: { key: text, lsn },
    answer: "bytes",
  },
  [`GET ${TL}/get_lsn_by_timestamp`]: {
    summary: "Which LSN belongs to a time",
    query: { timestamp: time, with_lease: boolean },
    answer: "LsnByTimestamp",
  },
  [`GET ${TL}/get_timestamp_of_lsn`]: { summary: "When it was", query: { lsn }, answer: "Time" },
  [`POST ${TL}/lsn_lease`]: {
    summary: "Keeps an LSN readable for ten minutes",
    body: { lsn },
    requiredBody: ["lsn"],
    answer: "LsnLease",
  },
  [`PUT ${TL}/do_gc`]: {
    summary: "Removes history that is not kept any more",
    body: { gc_horizon: count },
    answer: "GcResult",
  },
  [`PUT ${TL}/compact`]: { summary: "Merges layers and makes images", answer: "Compacted" },
  [`PUT ${TL}/checkpoint`]: { summary: "Puts what is in memory into layer files", answer: "Empty" },
};

const COMPUTES: Readonly<Record<string, Operation>> = {
  [`POST ${TL}/resolve`]: { summary: "The end of a record or commit", body: moment, answer: "Lsn" },
  [`POST ${TL}/commit_time`]: {
    summary: "When the last commit was made",
    body: { lsn },
    requiredBody: ["lsn"],
    answer: "CommitTime",
  },
  [`POST ${TL}/writer`]: {
    summary: "Gives a compute the right to write",
    body: { name: text, source: object, takeover: boolean },
    requiredBody: ["name", "source"],
    status: 201,
    answer: "Writer",
  },
  [`DELETE ${TL}/writer/:epoch`]: { summary: "Takes the right to write away", answer: "Writer" },
  [`POST ${TL}/wait`]: {
    summary: "Waits for WAL",
    body: { lsn, timeout_ms: count },
    requiredBody: ["lsn", "timeout_ms"],
    answer: "Lsn",
  },
  [`GET ${TL}/basebackup`]: {
    summary: "A data directory",
    query: { lsn, read_only: boolean },
    answer: "bytes",
  },
  [`POST ${TL}/recovery`]: {
    summary: "How stock recovery gets to some LSNs",
    body: { from: lsn, lsns: { type: "array", items: lsn }, samples: count },
    answer: "RecoveryPlan",
  },
  [`GET ${TL}/recovery`]: {
    summary: "A data directory that stock recovery begins with",
    query: { checkpoint: lsn, lsn },
    answer: "bytes",
  },
  [`POST ${TL}/verify`]: {
    summary: "Compares a directory of this machine with a base backup",
    body: { directory: text, lsn, recovered: boolean },
    requiredBody: ["directory", "lsn"],
    answer: { lines: "Verification" },
  },
  [`GET ${TL}/lease`]: { summary: "Leases", answer: "Leases" },
  [`POST ${TL}/lease`]: {
    summary: "Keeps an LSN readable",
    body: { name: text, lsn, duration_ms: count },
    requiredBody: ["name", "lsn", "duration_ms"],
    status: 201,
    answer: "Lease",
  },
  [`DELETE ${TL}/lease/:name`]: { summary: "Ends a lease", answer: "Released" },
};

const OLD: Readonly<Record<string, Operation>> = {
  "GET /v1/branch/:tenant": { summary: "Branches, as in 2021", answer: { listOf: "OldBranch" } },
  "GET /v1/branch/:tenant/:name": { summary: "A branch, as in 2021", answer: "OldBranch" },
  "POST /v1/branch": {
    summary: "Makes a branch, as in 2021",
    body: { tenant_id: id, name: text, start_point: text },
    requiredBody: ["tenant_id", "name", "start_point"],
    status: 201,
    answer: "OldBranch",
  },
};

/** By method and pattern, as in the router. */
export const OPERATIONS: Readonly<Record<string, Operation>> = {
  ...SERVER,
  ...TENANTS,
  ...TIMELINES,
  ...COMPUTES,
  ...OLD,
};

/** Groups of the document, and the operations in them. */
export const GROUPS: Readonly<Record<string, Readonly<Record<string, Operation>>>> = {
  server: SERVER,
  tenants: TENANTS,
  timelines: TIMELINES,
  computes: COMPUTES,
  "as in 2021": OLD,
};

export function operationKey(method: Method, pattern: string): string {
  return `${method} ${pattern}`;
}
