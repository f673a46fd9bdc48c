/**
 * The page API's own words, shared by server and client: what a request and an answer are once they have been checked.
 * They mirror the Protobuf messages of `proto/page_service.proto` but say more: what must be there is there, and what
 * cannot be is not. Making Protobuf of them cannot fail; the other direction is in `page-requests.ts` and
 * `page-responses.ts`.
 */
import type { Lsn } from "../lsn.ts";

export const PAGE_SERVICE = "page_api.PageService";

/** Methods of the service; the last one is ours alone. */
export const PAGE_METHODS = [
  "GetPages",
  "GetRelSize",
  "GetDbSize",
  "GetSlruSegment",
  "GetBaseBackup",
  "LeaseLsn",
  "CheckRelExists",
] as const;
export type PageMethod = (typeof PAGE_METHODS)[number];

/** Names of the metadata that each call carries. */
export const MetadataKey = {
  Tenant: "neon-tenant-id",
  Timeline: "neon-timeline-id",
  Shard: "neon-shard-id",
  Authorization: "authorization",
} as const;

/** Blocks of one GetPage request at most. */
export const BATCH_MAX = 32;
/** Size of a chunk of a base backup at most. */
export const CHUNK_SIZE_MAX = 256 * 1024;
export const PAGE_API_PAGE_SIZE = 8192;

/** At which LSN to read. */
export interface ReadAt {
  /** `MAX_LSN`: the latest. */
  readonly lsn: Lsn;
  /** The answer is the same from here up to `lsn`. Without one, WAL up to `lsn` is waited for. */
  readonly notModifiedSince: Lsn;
}

/** One fork of one relation. */
export interface RelTag {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
}

export const PageClass = { Unknown: 0, Normal: 1, Prefetch: 2, Background: 3 } as const;
export type PageClass = (typeof PageClass)[keyof typeof PageClass];

export const PageStatus = {
  Unknown: 0,
  Ok: 1,
  NotFound: 2,
  InvalidRequest: 3,
  InternalError: 4,
  SlowDown: 5,
} as const;
export type PageStatus = (typeof PageStatus)[keyof typeof PageStatus];

export const BackupCompression = { Unknown: 0, None: 1, Gzip: 2 } as const;

/** Which request an answer belongs to. */
export interface RequestId {
  readonly id: bigint;
  readonly attempt: number;
}

export interface GetPageRequest {
  readonly requestId: RequestId;
  readonly requestClass: PageClass;
  readonly read: ReadAt;
  readonly rel: RelTag;
  /** One to `BATCH_MAX`. */
  readonly blocks: readonly number[];
}

export interface PageImage {
  readonly block: number;
  readonly image: Uint8Array;
}

export type GetPageResponse = {
  readonly requestId: RequestId;
} & (
  | { readonly status: typeof PageStatus.Ok; readonly rel: RelTag; readonly pages: readonly PageImage[] }
  | { readonly status: Exclude<PageStatus, typeof PageStatus.Ok>; readonly reason: string }
);

export interface GetRelSizeRequest {
  readonly read: ReadAt;
  readonly rel: RelTag;
  /** A relation that does not exist is an answer and no error. */
  readonly allowMissing: boolean;
}

export interface CheckRelExistsRequest {
  readonly read: ReadAt;
  readonly rel: RelTag;
}

export interface GetDbSizeRequest {
  readonly read: ReadAt;
  readonly dbOid: number;
}

/** 0 pg_xact, 1 members of multixacts, 2 offsets of multixacts. */
export type SlruKind = 0 | 1 | 2;

export interface GetSlruSegmentRequest {
  readonly read: ReadAt;
  readonly kind: SlruKind;
  readonly segment: number;
}

export interface GetBaseBackupRequest {
  /** Undefined: the end of the timeline. */
  readonly lsn: Lsn | undefined;
  readonly replica: boolean;
  readonly full: boolean;
  readonly gzip: boolean;
}

export interface LeaseLsnRequest {
  readonly lsn: Lsn;
}
