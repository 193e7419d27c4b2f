#!lua
-- A new job: its record, its computation (a new one, a shared one, or a stored result), its place, its first event.
-- Sent twice, it finds its own record. Not run when the server's memory is used up (no allow-oom), and refused earlier
-- than that, so that workers can always finish.

local at = key('job', args.id)

local function answer(status, job, extra)
  return { status, redis.call('HGETALL', key('job', job or '')), extra or '' }
end

if redis.call('EXISTS', at) == 1 then return answer('new', args.id) end

-- An idempotency key that is known names its job, as long as that exists and is not the one to be replaced.
if args.idempotency ~= '' then
  local known = redis.call('HMGET', args.idempotency, 'job', 'fingerprint')
  if known[1] and redis.call('EXISTS', key('job', known[1])) == 1 then
    if known[2] ~= args.fingerprint then return answer('mismatch', nil, known[1]) end
    if known[1] ~= args.instead_of then
      count('deduplicated')
      return answer('same', known[1], known[1])
    end
  end
end

local function record_job(state, run)
  local deadline = args.deadline_in_ms ~= '' and now + tonumber(args.deadline_in_ms) or nil
  redis.call('HSET', at, 'operation', args.operation, 'caller', args.caller, 'state', state, 'attempt', '0',
    'done', '0', 'total', '1', 'message', '', 'request', args.request, 'labels', args.labels, 'images', args.images,
    'created_ms', now, 'deadline_ms', deadline or '', 'revision', '0', 'events', '0', 'cancelling', '0', 'run', run,
    'lane', args.lane, 'digest', args.digest, 'request_id', args.request_id, 'idempotency', args.idempotency,
    'environment', args.environment)
  if args.idempotency ~= '' then
    redis.call('DEL', args.idempotency)
    redis.call('HSET', args.idempotency, 'job', args.id, 'fingerprint', args.fingerprint)
  end
  redis.call('ZADD', key('active'), now, args.id)
  redis.call('SADD', key('caller', args.caller), args.id)
  if deadline then redis.call('ZADD', key('deadlines'), deadline, args.id) end
  local index = key('index', args.caller)
  redis.call('ZADD', index, now, args.id)
  redis.call('PEXPIRE', index, 2 * tonumber(args.keep_ms))
  -- Each submission takes a few of the oldest entries away whose jobs are gone: the index stays as long as it must be.
  for _, old in ipairs(redis.call('ZRANGE', index, 0, 3)) do
    if redis.call('EXISTS', key('job', old)) == 0 then redis.call('ZREM', index, old) end
  end
  count('submitted')
end

-- Whatever becomes of it, a new job is a record: every one needs room with its caller and in the server's memory.

-- The caller's quota. Entries whose job is gone or finished do not count; they can only come from lost writes.
local unfinished = key('caller', args.caller)
if redis.call('SCARD', unfinished) >= tonumber(args.caller_jobs) then
  for _, job in ipairs(redis.call('SMEMBERS', unfinished)) do
    if not ACTIVE[redis.call('HGET', key('job', job), 'state')] then redis.call('SREM', unfinished, job) end
  end
  if redis.call('SCARD', unfinished) >= tonumber(args.caller_jobs) then
    count('refused_quota')
    return answer('quota')
  end
end

local memory = redis.call('INFO', 'memory')
local used = tonumber(string.match(memory, '\nused_memory:(%d+)'))
local limit = tonumber(string.match(memory, '\nmaxmemory:(%d+)'))
if limit > 0 and used > limit * tonumber(args.memory_share) then
  count('refused_memory')
  return answer('memory')
end

if args.digest ~= '' and args.no_cache == '0' then
  local stored = redis.call('HMGET', key('cached', args.digest), 'manifest', 'computed_ms')
  if stored[1] then
    record_job('queued', args.id)
    redis.call('HSET', at, 'queued_ms', '0', 'started_ms', now, 'done', '1')
    end_job(args.id, 'succeeded', { manifest = stored[1], computed_ms = stored[2] })
    count('cached')
    return answer('new', args.id)
  end
  -- An identical request has the same operation, so the same lane: a run that is joined stays where it is.
  local run = redis.call('GET', key('computation', args.digest))
  local held = run and record('run', run)
  if held and ACTIVE[held.state] and held.cancelling ~= '1' then
    record_job(held.state, run)
    redis.call('SADD', key('members', run), args.id)
    if held.state == 'running' then
      redis.call('HSET', at, 'attempt', held.attempt, 'started_ms', now, 'queued_ms', '0')
    end
    announce(args.id)
    count('joined')
    return answer('new', args.id)
  end
end

local lane = key('lane', args.lane)
if redis.call('ZCARD', lane) >= tonumber(args.lane_depth) then
  local oldest = redis.call('ZRANGE', lane, 0, 0, 'WITHSCORES')
  count('refused_full')
  return answer('full', nil, tostring(now - tonumber(oldest[2])))
end

record_job('queued', args.id)
redis.call('HSET', key('run', args.id), 'operation', args.operation, 'request', args.request, 'images', args.images,
  'lane', args.lane, 'digest', args.digest, 'state', 'queued', 'owner', '', 'epoch', '0', 'attempt', '0',
  'crashes', '0', 'lost', '0', 'alone', '0', 'checkpoint', '', 'previous_checkpoint', '', 'checkpoint_step', '0',
  'submitted_ms', now, 'waiting_ms', now, 'cancelling', '0', 'request_id', args.request_id,
  'environment', args.environment)
redis.call('SADD', key('members', args.id), args.id)
redis.call('ZADD', lane, now, args.id)
if args.digest ~= '' then redis.call('SET', key('computation', args.digest), args.id, 'NX') end
announce(args.id)
ring('work')
return answer('new', args.id)
