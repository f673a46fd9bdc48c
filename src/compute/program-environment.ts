/**
 * The environment of Postgres' own programs. Nothing of the caller's leaks in: PGDATA, PGPORT or a locale of the
 * terminal must not change what a compute does, and secrets of the shell do not belong into a server that runs on.
 */
export function programEnvironment(): Record<string, string> {
  const environment: Record<string, string> = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LC_ALL: "C" };
  // Libraries of binaries that live outside the system's directories.
  for (const name of ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ"]) {
    const value = process.env[name];
    if (value) environment[name] = value;
  }
  return environment;
}
