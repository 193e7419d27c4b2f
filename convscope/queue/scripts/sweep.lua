#!lua flags=allow-oom
-- Put right what time and accidents have done: expired leases, passed deadlines, records and lanes that disagree, dead
-- workers. Every supervisor runs it each second; a bounded part of the jobs is looked at each time.

local WINDOW = 100
local report = { leases_lost = 0, expired = 0, repaired = 0, dropped = 0, failed = 0, workers_gone = 0,
  leases_extended = 0, leases_shortened = 0 }
local function note(name, by) report[name] = report[name] + (by or 1) end

-- While a server is down nobody can renew. After its return (another run of it, or a replica in its place) the workers
-- get the time of one lease to come back, or all work in progress would be thrown away.
local server = string.match(redis.call('INFO', 'server'), '\nrun_id:(%x+)')
local sweeper = redis.call('HMGET', key('sweeper'), 'server', 'offset')
if sweeper[1] ~= server then
  redis.call('HSET', key('sweeper'), 'server', server)
  if sweeper[1] then
    for _, run in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
      redis.call('ZADD', key('leases'), 'GT', now + tonumber(args.lease_ms), run)
      note('leases_extended')
    end
  end
end

-- Where the server's clock was set back, leases and heartbeats lie in its future, and the dead would count as living until
-- then. (Four leases: workers may be configured with another one than the sweeper.)
local lease_ms = tonumber(args.lease_ms)
for _, run in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), now + 4 * lease_ms, '+inf', 'LIMIT', 0, WINDOW)) do
  redis.call('ZADD', key('leases'), now + lease_ms, run)
  note('leases_shortened')
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), now + WORKER_KEPT_MS, '+inf')) do
  redis.call('ZADD', key('workers'), now, worker)
end

-- A lost lease is no crash: the machine may have been switched off. But a run that loses it again and again, without a
-- checkpoint between, is suspected (and runs alone), and given up in the end.
local function lose(run)
  local at = key('run', run)
  local state = redis.call('HGET', at, 'state')
  if state ~= 'running' then
    withdraw(run)
    if state == 'queued' then queue_run(run) end
    note('dropped')
    return
  end
  note('leases_lost')
  count('leases_lost')
  expire_members(run)
  if settle(run) then return end
  local lost = redis.call('HINCRBY', at, 'lost', 1)
  local limit = tonumber(args.crash_limit)
  if lost >= 3 * limit then
    note('failed')
    crashed_out(run, 'Its worker disappeared ' .. lost .. ' times, without a checkpoint between.')
    return
  end
  if lost >= limit then redis.call('HSET', at, 'alone', '1') end
  queue_run(run)
end

for _, run in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, WINDOW)) do lose(run) end

for _, job in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', now, 'LIMIT', 0, WINDOW)) do
  if expire_job(job) then note('expired') else redis.call('ZREM', key('deadlines'), job) end
end

-- A computation whose record was lost is made again from its job. Its epochs start beyond any that a worker may hold.
local function restore(job, held)
  redis.call('HSET', key('run', held.run), 'operation', held.operation, 'request', held.request,
    'images', held.images, 'lane', held.lane, 'caller', held.caller, 'cost', held.cost or '1',
    'bounded', held.bounded or '0', 'place', place(held.lane, held.caller, held.cost or '1'), 'digest', held.digest,
    'state', 'queued', 'owner', '', 'epoch', now, 'attempt', held.attempt, 'crashes', '0', 'lost', '0', 'alone', '0', 'checkpoint', '',
    'previous_checkpoint', '', 'checkpoint_step', '0', 'submitted_ms', held.created_ms, 'waiting_ms', now, 'cancelling', '0',
    'request_id', held.request_id, 'environment', held.environment or '')
  if held.networks then redis.call('HSET', key('run', held.run), 'networks', held.networks) end
  redis.call('PERSIST', key('run', held.run))
  redis.call('SADD', key('members', held.run), job)
  queue_run(held.run)
  note('repaired')
end

-- One unfinished job against its computation, and that against lane and lease.
local function check(job)
  local held = record('job', job)
  if not held or not ACTIVE[held.state] then
    redis.call('ZREM', key('active'), job)
    redis.call('ZREM', key('deadlines'), job)
    note('dropped')
    return
  end
  local run = record('run', held.run)
  if not run or run.state == 'ended' then
    if held.cancelling == '1' then end_job(job, 'cancelled') else restore(job, held) end
    return
  end
  note('repaired', redis.call('SADD', key('members', held.run), job))
  if held.state ~= run.state then
    redis.call('HSET', key('job', job), 'state', run.state, 'attempt', run.attempt)
    announce(job)
    note('repaired')
  end
  if run.state == 'queued' and not redis.call('ZSCORE', key('lane', run.lane), held.run) then
    queue_run(held.run)
    note('repaired')
  elseif run.state == 'running' and not redis.call('ZSCORE', key('leases'), held.run) then
    redis.call('ZADD', key('leases'), now + tonumber(args.lease_ms), held.run)
    note('repaired')
  end
end

-- One waiting computation against its record and its jobs.
local function check_waiting(lane, run)
  local held = redis.call('HMGET', key('run', run), 'state', 'lane')
  if held[1] ~= 'queued' or held[2] ~= lane then
    redis.call('ZREM', key('lane', lane), run)
    redis.call('ZREM', key('waiting', lane), run)
    redis.call('ZREM', key('alone'), run)
    note('dropped')
    return
  end
  for _, job in ipairs(members(run)) do
    if not ACTIVE[redis.call('HGET', key('job', job), 'state')] then
      redis.call('SREM', key('members', run), job)
      note('dropped')
    end
  end
  if settle(run) then note('dropped') end
end

local offset = tonumber(sweeper[2] or '0')
local more = false
local function page(at)
  local found = redis.call('ZRANGE', at, offset, offset + WINDOW - 1)
  more = more or #found == WINDOW
  return found
end
for _, job in ipairs(page(key('active'))) do check(job) end
for _, lane in ipairs(LANES) do
  for _, run in ipairs(page(key('lane', lane))) do check_waiting(lane, run) end
  for _, run in ipairs(page(key('waiting', lane))) do
    if not redis.call('ZSCORE', key('lane', lane), run) then redis.call('ZREM', key('waiting', lane), run) end
  end
end
redis.call('HSET', key('sweeper'), 'offset', more and offset + WINDOW or 0)

note('workers_gone', redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', now - WORKER_KEPT_MS))

local answer = {}
for name, number in pairs(report) do
  answer[#answer + 1] = name
  answer[#answer + 1] = number
  if number > 0 and (name == 'repaired' or name == 'dropped') then count('sweep_' .. name, number) end
end
return answer
