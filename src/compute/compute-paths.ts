/** Where the files of one compute are. */
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";

/**
 * Longest path of a socket that every system takes, bytes: 104 with the terminating zero on macOS, 108 on Linux.
 */
const SOCKET_PATH_BYTES_MAX = 103;

export class ComputePaths {
  readonly directory: string;

  /** @param directory of the compute; need not exist. Links on the way are resolved if it does. */
  constructor(directory: string) {
    this.directory = existsSync(directory) ? realpathSync(directory) : directory;
  }

  get file(): string {
    return join(this.directory, "compute.json");
  }
  get pgdata(): string {
    return join(this.directory, "pgdata");
  }
  /** A data directory in the making. */
  get newPgdata(): string {
    return join(this.directory, "pgdata.new");
  }
  /** A data directory that has been replaced and is being removed. */
  get oldPgdata(): string {
    return join(this.directory, "pgdata.old");
  }
  get log(): string {
    return join(this.directory, "postgres.log");
  }
  /** The user's own settings; outlives the data directory. */
  get userConf(): string {
    return join(this.directory, "neon-user.conf");
  }
  /** The last known postgresql.auto.conf (ALTER SYSTEM); outlives the data directory. */
  get savedAutoConf(): string {
    return join(this.directory, "saved.auto.conf");
  }
  get autoConf(): string {
    return join(this.pgdata, "postgresql.auto.conf");
  }
  get sockets(): string {
    return join(this.directory, "socket");
  }

  /** The directory for the Unix socket, or null where the path would be too long. */
  socketDirectory(port: number): string | null {
    const path = join(this.sockets, `.s.PGSQL.${port}.lock`);
    return Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX ? this.sockets : null;
  }
}
