/**
 * What differs between the major versions of Postgres, as data. Nowhere else does code ask for a version number:
 * it reads a property from here.
 */
export interface PgVersion {
  readonly major: number;
  /** `xlp_magic` of every WAL page. */
  readonly walPageMagic: number;
  /** `pg_control_version`. */
  readonly controlVersion: number;
  /** `catalog_version_no`. */
  readonly catalogVersion: number;
  /** Offset of the CRC in pg_control; what lies before it is covered. */
  readonly controlCrcOffset: number;
  /** Bits of `bimg_info` in a block image. */
  readonly image: {
    readonly apply: number;
    readonly pglz: number;
    readonly lz4: number;
    readonly zstd: number;
  };
}
