//! The Redis-compatible server where the pods of a gateway count together (spec R160). It is asked once for each
//! message of a route with a limit per time; when it does not answer, each pod keeps to its share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::bundle::document::{HostPort, SharedLimits};
use crate::bundle::material::{Material, Materials};
use crate::mail::rate::Rate;

/// For one question, connecting included. Mail waits for this, so it is short.
const PATIENCE: Duration = Duration::from_millis(250);
/// A server that failed is asked again after this.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the server is and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    pub at: HostPort,
    /// Begins each key: gateways that share a server count apart.
    pub prefix: String,
    username: Option<String>,
    password: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Server {
    /// `None`, and a line in the log: a login is named and not here. Pods keep to their shares.
    pub fn read(shared: &SharedLimits, gateway: &str, materials: &Materials) -> Option<Self> {
        let text = |material: &Option<Material>| match material {
            None => Some(None),
            Some(material) => {
                let bytes = materials.get(material)?;
                let text = std::str::from_utf8(bytes).ok()?;
                Some(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        };
        let (Some(username), Some(password)) = (text(&shared.username), text(&shared.password)) else {
            warn!("the login of the shared limits' server is not here; each pod keeps to its share");
            return None;
        };
        Some(Self { at: shared.at.clone(), prefix: format!("postern:{gateway}"), username, password })
    }
}

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It was taken, and is so far away.
    In(Duration),
    /// None was taken: the next one is too far away.
    NotBefore(Duration),
}

/// The server did not answer, in time or at all.
#[derive(Debug, PartialEq, Eq)]
pub struct Unanswered;

/// A connection that is kept, or the memory of a failure.
#[derive(Default)]
pub struct Link(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    New,
    Open(Server, MultiplexedConnection),
    Failed(Server, Instant),
}

/// Turns are kept to within this by those who sleep until theirs.
const JITTER: Duration = Duration::from_millis(100);

/// Takes the next turn in each bucket, and says how many microseconds it is away; when it is further away than the
/// last argument, takes none and says so by a negative number. Each key holds the moment, by the server's clock, of
/// the next turn at an even pace; small delays are made up for.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local wait, turns = 0, {}
for i, key in ipairs(KEYS) do
  local turn = tonumber(redis.call('GET', key) or '0')
  local interval, longest = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * #KEYS + 1])
  if turn > now + interval + longest then turn = now + interval end
  turns[i] = turn
  if turn - now > wait then wait = turn - now end
end
if wait > tonumber(ARGV[2 * #KEYS + 1]) then return -wait end
for i, key in ipairs(KEYS) do
  local interval, spare = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local turn = math.max(turns[i], now + wait - spare) + interval
  redis.call('SET', key, string.format('%.0f', turn), 'PX', string.format('%.0f', math.max(0, math.ceil((turn - now) / 1000)) + math.ceil(spare / 1000) + 1000))
end
return wait
";

impl Link {
    /// Takes a turn in each of these; it must be waited for.
    pub async fn take(
        &self,
        server: &Server,
        rates: &[(String, Rate)],
        longest: Duration,
    ) -> Result<Turn, Unanswered> {
        let known = {
            let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                State::Open(of, connection) if of == server => Some(connection.clone()),
                State::Failed(of, at) if of == server && at.elapsed() < PAUSE => return Err(Unanswered),
                State::New | State::Open(..) | State::Failed(..) => None,
            }
        };
        let fresh = known.is_none();
        let asking = async {
            let mut connection = match known {
                Some(connection) => connection,
                None => connect(server).await?,
            };
            let mut call = redis::cmd("EVAL");
            call.arg(SCRIPT).arg(rates.len());
            for (key, _) in rates {
                call.arg(format!("{}:{key}", server.prefix));
            }
            for (_, rate) in rates {
                // Rounded up: a little less than allowed, never more.
                let spare = JITTER.as_nanos().div_ceil(u128::from(rate.count()));
                let micros = (rate.interval().as_nanos() + spare).div_ceil(1000);
                let spare_micros = rate.spare().as_micros();
                call.arg(u64::try_from(micros).unwrap_or(u64::MAX));
                call.arg(u64::try_from(spare_micros).unwrap_or(u64::MAX));
            }
            call.arg(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX));
            let wait: i64 = call.query_async(&mut connection).await?;
            Ok::<_, redis::RedisError>((connection, wait))
        };
        let (state, result) = match timeout(PATIENCE, asking).await {
            Ok(Ok((connection, wait))) => {
                let by = Duration::from_micros(wait.unsigned_abs());
                let turn = if wait < 0 { Turn::NotBefore(by) } else { Turn::In(by) };
                (State::Open(server.clone(), connection), Ok(turn))
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                warn!(server = %server.at.host, %why, "shared limits: no answer; each pod keeps to its share");
                (State::Failed(server.clone(), Instant::now()), Err(Unanswered))
            }
        };
        if fresh && result.is_ok() {
            info!(server = %server.at.host, "shared limits: counting together");
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        result
    }
}

async fn connect(server: &Server) -> redis::RedisResult<MultiplexedConnection> {
    let address = ConnectionAddr::Tcp(server.at.host.clone(), server.at.port);
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = &server.username {
        login = login.set_username(username);
    }
    if let Some(password) = &server.password {
        login = login.set_password(password);
    }
    let client = Client::open(address.into_connection_info()?.set_redis_settings(login))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&config).await
}
