/** From a repository to the users of its pageserver. */
import { UserClient } from "../../client/users.ts";
import { pageserverUrl } from "../../repository/config.ts";
import type { Repository } from "../../repository/repository.ts";

export function userClientOf(repository: Repository): UserClient {
  return new UserClient({
    baseUrl: pageserverUrl(repository.config),
    token: repository.config.pageserver.authToken,
  });
}
