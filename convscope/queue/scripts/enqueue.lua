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
  if known[1] and exists(args.caller, known[1]) then
    if known[2] ~= args.fingerprint then return answer('mismatch', nil, known[1]) end
    if known[1] ~= args.instead_of then
      count('deduplicated')
      return answer('same', known[1], known[1])
    end
  end
end

local lane = key('lane', args.lane)
local quota = unfinished(args.lane, args.caller)

local function record_job(state, run)
  local deadline = args.deadline_in_ms ~= '' and now + tonumber(args.deadline_in_ms) or nil
  redis.call('HSET', at, 'operation', args.operation, 'caller', args.caller, 'state', state, 'attempt', '0',
    'done', '0', 'total', '1', 'message', '', 'request', args.request, 'labels', args.labels, 'images', args.images,
    'created_ms', now, 'deadline_ms', deadline or '', 'revision', '0', 'events', '0', 'cancelling', '0', 'run', run,
    'lane', args.lane, 'cost', args.cost, 'digest', args.digest, 'request_id', args.request_id,
    'idempotency', args.idempotency, 'environment', args.environment, 'bounded', args.bounded)
  if args.networks ~= '' then redis.call('HSET', at, 'networks', args.networks) end
  if args.idempotency ~= '' then
    redis.call('DEL', args.idempotency)
    redis.call('HSET', args.idempotency, 'job', args.id, 'fingerprint', args.fingerprint)
  end
  redis.call('ZADD', key('active'), now, args.id)
  redis.call('ZADD', quota, -1 - tonumber(args.cost), args.id)
  redis.call('PERSIST', quota)
  if deadline then redis.call('ZADD', key('deadlines'), deadline, args.id) end
  local index = key('index', args.caller)
  redis.call('ZADD', index, now, args.id)
  redis.call('PEXPIRE', index, 2 * tonumber(args.keep_ms))
  -- Each submission takes a few of the oldest entries away whose jobs are gone: the index stays as long as it must be.
  for _, old in ipairs(redis.call('ZRANGE', index, 0, 3)) do
    if not exists(args.caller, old) then redis.call('ZREM', index, old) end
  end
  count('submitted')
end

-- The same caller, without labels, was answered from the store before, not too long ago: that job's record says all there
-- is to say. So a request that is sent again and again leaves nothing.
local stored = args.digest ~= '' and args.no_cache == '0' and redis.call('GET', key('result', args.digest))
local answered = args.labels == '{}' and key('answer', args.digest, args.caller) or nil
if stored and answered then
  local known, of = string.match(redis.call('GET', answered) or '', '(%S+) (%S+)')
  local keep = tonumber(args.keep_ms)
  local left = redis.call('PTTL', answered)
  if of == stored and known ~= args.instead_of and left > keep / 2 and exists(args.caller, known) then
    if args.idempotency ~= '' then
      redis.call('DEL', args.idempotency)
      redis.call('HSET', args.idempotency, 'job', known, 'fingerprint', args.fingerprint)
      redis.call('PEXPIRE', args.idempotency, keep)
    end
    count('cached')
    return answer('same', known, known)
  end
end

-- Whatever becomes of it, a new job is a record: every one needs room with its caller and in the server's memory.

-- The caller's quota: so many unfinished jobs (scores below zero, which tell their costs), and as many cancelled within a
-- minute (scores above, until when they count). Entries whose job is gone or finished come from lost writes only.
redis.call('ZREMRANGEBYSCORE', quota, 0, now)
if redis.call('ZCOUNT', quota, 0, '+inf') >= math.max(tonumber(args.caller_jobs), LEAST_CANCELLED) then
  count('refused_quota')
  return answer('cancelled')
end
if redis.call('ZCOUNT', quota, '-inf', '(0') >= tonumber(args.caller_jobs) then
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', quota, '-inf', '(0')) do
    if not ACTIVE[redis.call('HGET', key('job', job), 'state')] then redis.call('ZREM', quota, job) end
  end
  if redis.call('ZCOUNT', quota, '-inf', '(0') >= tonumber(args.caller_jobs) then
    count('refused_quota')
    return answer('quota')
  end
end
if args.bounded == '1' and args.lane ~= 'quick' then
  local costs = 0
  local entries = redis.call('ZRANGEBYSCORE', quota, '-inf', '(0', 'WITHSCORES')
  for i = 2, #entries, 2 do costs = costs - 1 - tonumber(entries[i]) end
  if costs > 0 and costs + tonumber(args.cost) > tonumber(args.caller_cost) then
    count('refused_quota')
    return answer('cost', nil, tostring(math.floor(costs)))
  end
end

local memory = redis.call('INFO', 'memory')
local used = tonumber(string.match(memory, '\nused_memory:(%d+)'))
local limit = tonumber(string.match(memory, '\nmaxmemory:(%d+)'))
if limit > 0 and used > limit * tonumber(args.memory_share) then
  count('refused_memory')
  return answer('memory')
end

if stored then
  -- Nobody follows what is over at once: it has no events. When another caller's request was computed, and how long that
  -- took, is not told.
  record_job('queued', args.id)
  redis.call('HSET', at, 'queued_ms', '0', 'started_ms', now, 'done', '1', 'cached', '1', 'revision', '1')
  end_job(args.id, 'succeeded', { manifest = stored })
  if answered then redis.call('SET', answered, args.id .. ' ' .. stored, 'PX', args.keep_ms) end
  count('cached')
  return answer('new', args.id)
end

if args.digest ~= '' and args.no_cache == '0' then
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

if redis.call('ZCARD', lane) >= tonumber(args.lane_depth) then
  local oldest = redis.call('ZRANGE', key('waiting', args.lane), 0, 0, 'WITHSCORES')
  count('refused_full')
  return answer('full', nil, tostring(now - tonumber(oldest[2] or now)))
end

record_job('queued', args.id)
redis.call('HSET', key('run', args.id), 'operation', args.operation, 'request', args.request, 'images', args.images,
  'lane', args.lane, 'caller', args.caller, 'cost', args.cost, 'bounded', args.bounded,
  'place', place(args.lane, args.caller, args.cost), 'digest', args.digest, 'state', 'queued', 'owner', '', 'epoch', '0',
  'attempt', '0', 'crashes', '0', 'lost', '0', 'alone', '0', 'checkpoint', '', 'previous_checkpoint', '',
  'checkpoint_step', '0', 'submitted_ms', now, 'waiting_ms', now, 'cancelling', '0', 'request_id', args.request_id,
  'environment', args.environment)
if args.networks ~= '' then redis.call('HSET', key('run', args.id), 'networks', args.networks) end
redis.call('SADD', key('members', args.id), args.id)
redis.call('ZADD', lane, redis.call('HGET', key('run', args.id), 'place'), args.id)
redis.call('ZADD', key('waiting', args.lane), now, args.id)
if args.digest ~= '' then redis.call('SET', key('computation', args.digest), args.id, 'NX') end
announce(args.id)
ring('work')
return answer('new', args.id)
