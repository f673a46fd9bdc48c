/** What redo needs beside page and record: facts about the server that wrote the WAL, and memory to work in. */
import { PageBuffer } from "../page/layout.ts";
import type { PgVersion } from "../versions/version.ts";

/** More index tuples than fit on any page. */
const OFFSETS_MAX = 1024;

/**
 * Make one and use it for any number of `redoBlock` calls; not for two at the same time (redo is synchronous, so one
 * per thread is enough).
 */
export class RedoContext {
  readonly version: PgVersion;
  /**
   * The server logs changes of hint bits (data checksums or wal_log_hints): only then does setting all-visible on a
   * heap page move its LSN.
   */
  readonly hintBitsLogged: boolean;
  /** Second page for rebuilding a page; content means nothing between calls. */
  readonly scratchPage = new PageBuffer();
  /** Room for one tuple. */
  readonly scratchTuple = new PageBuffer();
  /** Room for a list of positions. */
  readonly scratchOffsets = new Uint32Array(OFFSETS_MAX);

  constructor(options: { readonly version: PgVersion; readonly hintBitsLogged: boolean }) {
    this.version = options.version;
    this.hintBitsLogged = options.hintBitsLogged;
  }
}
