/** Where the files of a base backup go: into a tar, or beside a data directory to be compared with it. */
export interface BackupTarget {
  /** Paths are relative to the data directory. */
  directory(path: string): void;
  file(path: string, bytes: Uint8Array): void;
  /** Announces a file; exactly `sizeBytes` are written before `endFile`. */
  beginFile(path: string, sizeBytes: number): void;
  /** The bytes are valid during the call only. */
  write(bytes: Uint8Array): void;
  endFile(): void;
}
