/**
 * Who the two sides of a transfer are. Each sends this first; pages, WAL and layer files are only exchanged between
 * pageservers that agree on what they look like, and only between copies of one Postgres cluster.
 */
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { LAYER_VERSION } from "../../storage/layer-format.ts";
import { JsonFields } from "../json-fields.ts";
import type { ClusterIdentity } from "../timeline/served-timeline.ts";

/** What is on the wire; raised with every change that an older pageserver would not understand. */
export const PROTOCOL_VERSION = 1;

/** Seen from the pageserver that was asked for the transfer by its user. */
export type Operation = "push" | "pull";

export interface PeerCluster {
  readonly pgMajor: number;
  readonly catalogVersion: number;
  readonly segmentSize: number;
  readonly systemId: bigint;
}

export interface PeerIdentity {
  readonly protocol: number;
  readonly operation: Operation;
  readonly tenantId: TenantId;
  readonly pageSize: number;
  readonly layerVersion: number;
  /** Undefined where the tenant is missing or has no timeline yet. */
  readonly cluster: PeerCluster | undefined;
}

export function makeIdentity(
  operation: Operation,
  tenantId: TenantId,
  cluster: ClusterIdentity | undefined,
): PeerIdentity {
  return {
    protocol: PROTOCOL_VERSION,
    operation,
    tenantId,
    pageSize: PAGE_SIZE,
    layerVersion: LAYER_VERSION,
    cluster: cluster && {
      pgMajor: cluster.pgVersion.major,
      catalogVersion: cluster.pgVersion.catalogVersion,
      segmentSize: cluster.segmentSize,
      systemId: cluster.systemId,
    },
  };
}

export function renderIdentity(identity: PeerIdentity): object {
  const { cluster } = identity;
  return {
    protocol: identity.protocol,
    operation: identity.operation,
    tenant_id: identity.tenantId,
    page_size: identity.pageSize,
    layer_version: identity.layerVersion,
    cluster: cluster
      ? {
          pg_version: cluster.pgMajor,
          catalog_version: cluster.catalogVersion,
          segment_size: cluster.segmentSize,
          system_id: cluster.systemId.toString(),
        }
      : null,
  };
}

/** Reads the protocol version first: what a later version says beside it is not ours to judge. */
export function parseIdentity(value: unknown): PeerIdentity {
  const fields = new JsonFields(value, "hello", (message) => corrupt(message));
  const protocol = fields.integer("protocol", { min: 1, max: 1_000_000 });
  if (protocol !== PROTOCOL_VERSION) throw mismatch("transfer protocol", PROTOCOL_VERSION, protocol);
  const operation = fields.text("operation");
  if (operation !== "push" && operation !== "pull") throw fields.wrong("operation", "must be push or pull");
  const cluster = fields.optionalObject("cluster");
  return {
    protocol,
    operation,
    tenantId: fields.tenantId("tenant_id"),
    pageSize: fields.integer("page_size", { min: 1, max: 2 ** 31 }),
    layerVersion: fields.integer("layer_version", { min: 1, max: 1_000_000 }),
    cluster: cluster && {
      pgMajor: cluster.integer("pg_version", { min: 1, max: 1000 }),
      catalogVersion: cluster.integer("catalog_version", { min: 1, max: 2 ** 32 }),
      segmentSize: cluster.integer("segment_size", { min: 1, max: 2 ** 31 }),
      systemId: cluster.u64("system_id"),
    },
  };
}

/** Throws `conflict` or `unsupported`, with both sides named, unless the two may exchange timelines. */
export function checkIdentities(ours: PeerIdentity, theirs: PeerIdentity): void {
  if (theirs.operation !== ours.operation) {
    throw corrupt(`the other side speaks of a ${theirs.operation} during a ${ours.operation}`);
  }
  if (theirs.tenantId !== ours.tenantId) {
    throw corrupt(`the other side speaks of tenant ${theirs.tenantId}, not of ${ours.tenantId}`);
  }
  if (theirs.pageSize !== ours.pageSize) throw mismatch("page size", ours.pageSize, theirs.pageSize);
  if (theirs.layerVersion !== ours.layerVersion) {
    throw mismatch("layer file version", ours.layerVersion, theirs.layerVersion);
  }
  if (ours.cluster && theirs.cluster) checkClusters(ours.cluster, theirs.cluster);
}

function checkClusters(ours: PeerCluster, theirs: PeerCluster): void {
  if (ours.pgMajor !== theirs.pgMajor) throw mismatch("Postgres version", ours.pgMajor, theirs.pgMajor);
  if (ours.catalogVersion !== theirs.catalogVersion) {
    throw mismatch("catalog version", ours.catalogVersion, theirs.catalogVersion);
  }
  if (ours.segmentSize !== theirs.segmentSize) {
    throw mismatch("WAL segment size", ours.segmentSize, theirs.segmentSize);
  }
  if (ours.systemId === theirs.systemId) return;
  throw new NeonError(
    ErrorCode.Conflict,
    `the two tenants hold different Postgres clusters: system identifier ${ours.systemId} here, ${theirs.systemId} there`,
    {
      hint: "Only copies of one cluster can be exchanged: use another tenant id, or `neon clone` the other one.",
      data: { ours: ours.systemId.toString(), theirs: theirs.systemId.toString() },
    },
  );
}

function mismatch(what: string, ours: number, theirs: number): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    `${what} ${ours} here, ${theirs} there: they do not go together`,
    {
      hint: "Both sides need the same version of this tool and of Postgres.",
      data: { what, ours, theirs },
    },
  );
}
