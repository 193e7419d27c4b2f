-- What every script shares. It stands before each script; keys.py says what each key holds.
--
-- KEYS[1] is the prefix of all keys, ARGV holds names and values in turn. Every script may be sent twice: the client
-- repeats a command whose answer it lost. The clock is the server's.

local args = {}
for i = 1, #ARGV, 2 do args[ARGV[i]] = ARGV[i + 1] end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local ACTIVE = { queued = true, running = true }
local LANES = { 'quick', 'interactive', 'batch' }

local function key(kind, ...)
  return KEYS[1] .. table.concat({ kind, ... }, ':')
end

-- Where it says which artifact has the records of finished jobs that a caller made in the same minute (ids begin with
-- their time).
local function archived(caller, job)
  return key('archived', caller, string.sub(job, 1, 8))
end

local function exists(caller, job)
  return redis.call('EXISTS', key('job', job)) == 1 or redis.call('HEXISTS', archived(caller, job), job) == 1
end

local function table_of(flat)
  local held = {}
  for i = 1, #flat, 2 do held[flat[i]] = flat[i + 1] end
  return held
end

-- A hash as a table, or nil where there is none.
local function record(kind, id)
  local flat = redis.call('HGETALL', key(kind, id))
  if #flat == 0 then return nil end
  return table_of(flat)
end

local function count(name, by)
  redis.call('HINCRBY', key('counters'), name, by or 1)
end

-- A duration for the histograms of /metrics: how many of an operation fell into each bucket, and their sum.
local function measure(kind, operation, ms)
  local bucket = 1
  while TIME_BUCKETS_MS[bucket] and ms > TIME_BUCKETS_MS[bucket] do bucket = bucket + 1 end
  redis.call('HINCRBY', key('times'), kind .. ':' .. operation .. ':' .. bucket, 1)
  redis.call('HINCRBYFLOAT', key('times'), kind .. ':' .. operation .. ':sum', string.format('%.3f', ms))
end

local function ring(reason)
  redis.call('XADD', key('doorbell'), 'MAXLEN', '~', DOORBELL_KEPT, '*', 'reason', reason)
end

local function changed(job, state)
  redis.call('XADD', key('changes'), 'MAXLEN', '~', CHANGES_KEPT, '*', 'id', job, 'state', state)
end

-- Event ids count 1-0, 2-0, … in each job, so that a reader can tell whether something was trimmed before it came.
local function emit(job, name, data)
  local number = redis.call('HINCRBY', key('job', job), 'events', 1)
  data.at_ms = now
  redis.call('XADD', key('events', job), 'MAXLEN', EVENTS_KEPT, number .. '-0', 'name', name, 'data', cjson.encode(data))
end

-- Say that a job's state, attempt or cancelling flag has changed.
local function announce(job)
  local held = redis.call('HMGET', key('job', job), 'state', 'attempt', 'cancelling')
  redis.call('HINCRBY', key('job', job), 'revision', 1)
  emit(job, 'state', { state = held[1], attempt = tonumber(held[2]), cancelling = held[3] == '1' })
  changed(job, held[1])
end

local function problem(name, detail)
  return cjson.encode({ name = name, detail = detail })
end

-- Quick work and long work have quotas of their own.
local function unfinished(lane, caller)
  return key('unfinished', lane == 'quick' and 'quick' or 'long', caller)
end

-- A caller's place in a lane, a virtual time (start-time fair queueing, Goyal, Vin and Cheng 1996): it begins where the
-- lane stands, or where the caller's own earlier requests end, and moves on by the cost. So callers share by cost, and
-- one who sends a thousand requests waits for these and keeps nobody else waiting. An empty lane has no debts.
local function place(lane, caller, cost)
  local shares = key('shares', lane)
  local stands = redis.call('HGET', shares, ':clock') or '0'
  if redis.call('ZCARD', key('lane', lane)) == 0 then
    redis.call('DEL', shares)
    redis.call('HSET', shares, ':clock', stands)
  end
  local start = math.max(tonumber(stands), tonumber(redis.call('HGET', shares, caller) or '0'))
  redis.call('HSET', shares, caller, string.format('%.6f', start + tonumber(cost)))
  return string.format('%.6f', start)
end

-- An idempotency key that names this job names it no more.
local function free_key(idempotency, job)
  if idempotency and idempotency ~= '' and redis.call('HGET', idempotency, 'job') == job then
    redis.call('DEL', idempotency)
  end
end

-- Terminal transition of a job; false where it had one already. `more` are further fields of the record; after a failure
-- that may have passed when the request is sent again (`passing`), its key does not stand for it any more.
local function end_job(job, state, more, passing)
  local at = key('job', job)
  local held = redis.call('HMGET', at, 'state', 'caller', 'run', 'idempotency', 'lane', 'cached')
  if not ACTIVE[held[1]] then return false end
  local keep = tonumber(args.keep_ms)
  redis.call('HSET', at, 'state', state, 'finished_ms', now, 'expires_ms', now + keep, 'cancelling', '0')
  for name, value in pairs(more or {}) do redis.call('HSET', at, name, value) end
  -- What was cancelled is counted for a while, or a caller could send and cancel without end.
  if state == 'cancelled' then
    redis.call('ZADD', unfinished(held[5], held[2]), now + CANCELLED_COUNTS_MS, job)
    redis.call('PEXPIRE', unfinished(held[5], held[2]), 2 * keep)
  else
    redis.call('ZREM', unfinished(held[5], held[2]), job)
  end
  redis.call('SREM', key('members', held[3]), job)
  redis.call('ZREM', key('deadlines'), job)
  redis.call('ZREM', key('active'), job)
  if held[6] ~= '1' then
    announce(job)
    emit(job, 'done', { state = state })
    redis.call('PEXPIRE', key('events', job), keep)
  end
  redis.call('PEXPIRE', at, keep)
  redis.call('PEXPIRE', key('index', held[2]), 2 * keep)
  redis.call('ZADD', key('finished'), now, job)
  if passing then
    free_key(held[4], job)
  elseif held[4] and held[4] ~= '' then
    redis.call('PEXPIRE', held[4], keep)
  end
  count('finished_' .. state)
  return true
end

local function members(run)
  local ids = redis.call('SMEMBERS', key('members', run))
  table.sort(ids)
  return ids
end

local function end_members(run, state, more, passing)
  for _, job in ipairs(members(run)) do end_job(job, state, more, passing) end
end

-- Take a run out of every place where runs wait or are computed.
local function withdraw(run)
  local owner = redis.call('HGET', key('run', run), 'owner')
  for _, lane in ipairs(LANES) do
    redis.call('ZREM', key('lane', lane), run)
    redis.call('ZREM', key('waiting', lane), run)
  end
  redis.call('ZREM', key('alone'), run)
  redis.call('ZREM', key('leases'), run)
  if owner and owner ~= '' then redis.call('SREM', key('held', owner), run) end
end

-- Nobody may join a run from here on.
local function unshare(run)
  local digest = redis.call('HGET', key('run', run), 'digest')
  if digest and digest ~= '' and redis.call('GET', key('computation', digest)) == run then
    redis.call('DEL', key('computation', digest))
  end
end

-- A run is over. Its record stays a while, with the verdict for a worker that reports its end once more.
local function end_run(run, verdict)
  withdraw(run)
  unshare(run)
  local at = key('run', run)
  local epoch = redis.call('HGET', at, 'epoch') or '0'
  redis.call('DEL', at)
  redis.call('HSET', at, 'state', 'ended', 'owner', '', 'epoch', epoch, 'verdict', verdict)
  redis.call('PEXPIRE', key('run', run), RUN_KEPT_MS)
  redis.call('DEL', key('members', run))
end

-- Back to the lane, in its old place; its jobs are queued again.
local function queue_run(run)
  withdraw(run)
  local at = key('run', run)
  redis.call('HSET', at, 'state', 'queued', 'owner', '', 'waiting_ms', now)
  local held = redis.call('HMGET', at, 'lane', 'submitted_ms', 'alone', 'place')
  redis.call('ZADD', key('lane', held[1]), held[4] or '0', run)
  redis.call('ZADD', key('waiting', held[1]), held[2], run)
  if held[3] == '1' then redis.call('ZADD', key('alone'), now, run) end
  for _, job in ipairs(members(run)) do
    if redis.call('HGET', key('job', job), 'state') == 'running' then
      redis.call('HSET', key('job', job), 'state', 'queued')
      announce(job)
    end
  end
  ring('work')
end

-- What is left to do with a run that its worker lets go: end it where nobody wants it, true where that was so.
local function settle(run)
  if redis.call('HGET', key('run', run), 'cancelling') == '1' then end_members(run, 'cancelled') end
  if redis.call('SCARD', key('members', run)) > 0 then return false end
  end_run(run, 'cancelled')
  return true
end

-- A running run that lost its last job must be stopped by its worker; a waiting one is over at once.
local function abandon(run)
  if redis.call('SCARD', key('members', run)) > 0 then return end
  if redis.call('HGET', key('run', run), 'state') == 'running' then
    redis.call('HSET', key('run', run), 'cancelling', '1')
    unshare(run)
    ring('cancel')
  else
    end_run(run, 'cancelled')
  end
end

local function too_late(job)
  return end_job(job, 'expired',
    { error = problem('deadline-exceeded', 'The deadline passed before the job finished.') }, true)
end

local function expire_job(job)
  local run = redis.call('HGET', key('job', job), 'run')
  local ended = too_late(job)
  if ended and run then abandon(run) end
  return ended
end

-- Jobs of a run whose deadline has passed; their number.
local function expire_members(run)
  local ended = 0
  for _, job in ipairs(members(run)) do
    local deadline = tonumber(redis.call('HGET', key('job', job), 'deadline_ms') or '')
    if deadline and deadline <= now and too_late(job) then ended = ended + 1 end
  end
  return ended
end

-- The run of a worker's report, or nil (counted) where the report comes from a lost lease or an older attempt.
local function owned(run, epoch)
  local held = record('run', run)
  if held and held.epoch == epoch and held.state == 'running' then return held end
  count('fenced_writes')
  return nil
end

local function crashed_out(run, detail)
  end_members(run, 'failed', { error = problem('worker-crashed', detail) }, true)
  end_run(run, 'cancelled')
end
