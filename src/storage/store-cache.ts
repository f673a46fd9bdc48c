/** What all stores of a process share: verified blocks and open files. */
import { assert } from "../base/errors.ts";
import type { Clock, Files } from "../base/seams.ts";
import { BlockCache } from "./block-cache.ts";
import { HandlePool } from "./handle-pool.ts";
import type { IndexBlock } from "./index-block.ts";

/** Part of the memory that is kept for index blocks, so that reading much data does not push them out. */
const INDEX_SHARE = 0.25;
const HANDLES_MAX_DEFAULT = 256;
/** Ids of blocks are numbers: file id, then 32 bits of position. */
const FILE_IDS_MAX = 2 ** 21;

export class StoreCache implements AsyncDisposable {
  readonly data: BlockCache<Uint8Array>;
  readonly index: BlockCache<IndexBlock>;
  readonly handles: HandlePool;
  /** Tells when layers were read, where somebody wants to know. */
  readonly clock: Clock | undefined;
  private lastFileId = 0;

  constructor(
    options: { capacityBytes: number; handlesMax?: number },
    dependencies: { files: Files; clock?: Clock },
  ) {
    this.clock = dependencies.clock;
    this.index = new BlockCache(options.capacityBytes * INDEX_SHARE);
    this.data = new BlockCache(options.capacityBytes * (1 - INDEX_SHARE));
    this.handles = new HandlePool(dependencies.files, options.handlesMax ?? HANDLES_MAX_DEFAULT);
  }

  /** The start of a range of 2^32 block ids, for one file. */
  newFileBase(): number {
    this.lastFileId++;
    assert(this.lastFileId < FILE_IDS_MAX, "too many layer files were opened");
    return this.lastFileId * 2 ** 32;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handles[Symbol.asyncDispose]();
  }
}
