#!lua flags=allow-oom
-- Waiting runs for a worker: interactive ones first, in the order of their submission, each under a new epoch.
-- Sent twice (the same token), it gives the same runs again as long as they are still this worker's.

local worker = args.worker
local held_key = key('held', worker)
local operations = {}
for name in string.gmatch(args.operations, '[^,]+') do operations[name] = true end

local given = {}

-- The run as the worker gets it. Its deadline is that of the job that may wait longest; none where one may wait for ever.
local function describe(run, slot)
  local jobs, latest = members(run), 0
  for _, job in ipairs(jobs) do
    local deadline = tonumber(redis.call('HGET', key('job', job), 'deadline_ms') or '')
    latest = deadline and latest and math.max(latest, deadline)
  end
  local deadline = latest and latest > 0 and latest or nil
  return { run, slot, deadline and tostring(deadline) or '', deadline and tostring(deadline - now) or '', jobs,
    redis.call('HGETALL', key('run', run)) }
end

local last = redis.call('HMGET', key('claimed', worker), 'token', 'runs')
if last[1] == args.token then
  for run, epoch, slot in string.gmatch(last[2], '(%S+) (%S+) (%S+)') do
    local held = redis.call('HMGET', key('run', run), 'epoch', 'owner', 'state')
    if held[1] == epoch and held[2] == worker and held[3] == 'running' then given[#given + 1] = describe(run, slot) end
  end
  return given
end

-- What it holds now. A run that has to be alone excludes all others for as long as it is so marked, and one that was
-- asked back so that the next can be alone, until it is back.
local holding, long_ones, cannot_be_saved = 0, 0, false
for _, run in ipairs(redis.call('SMEMBERS', held_key)) do
  local held = redis.call('HMGET', key('run', run), 'owner', 'state', 'alone', 'park', 'lane', 'asked_ms')
  if held[1] == worker and held[2] == 'running' then
    if held[3] == '1' or held[4] == '1' then return given end
    holding = holding + 1
    if held[5] == 'batch' then long_ones = long_ones + 1 end
    if held[6] and held[6] ~= '' and now - tonumber(held[6]) > SAVED_WITHIN_MS then cannot_be_saved = true end
  else
    redis.call('SREM', held_key, run)
  end
end

local receipt = {}
local sealed = false -- nothing may be given beside what has been given

local function take(run, slot)
  local at = key('run', run)
  withdraw(run)
  local epoch = redis.call('HINCRBY', at, 'epoch', 1)
  local attempt = redis.call('HINCRBY', at, 'attempt', 1)
  redis.call('HSET', at, 'state', 'running', 'park', '0', 'asked_ms', '', 'owner', worker)
  redis.call('ZADD', key('leases'), now + tonumber(args.lease_ms), run)
  redis.call('SADD', held_key, run)
  for _, job in ipairs(members(run)) do
    local job_key = key('job', job)
    local held = redis.call('HMGET', job_key, 'created_ms', 'started_ms')
    redis.call('HSET', job_key, 'state', 'running', 'attempt', attempt)
    if not held[2] then redis.call('HSET', job_key, 'started_ms', now, 'queued_ms', now - tonumber(held[1])) end
    announce(job)
  end
  sealed = redis.call('HGET', at, 'alone') == '1'
  given[#given + 1] = describe(run, slot)
  receipt[#receipt + 1] = table.concat({ run, epoch, slot }, ' ')
end

-- Whether a waiting run can be given now; what is no longer worth computing leaves the lane here.
local function fits(run)
  local held = redis.call('HMGET', key('run', run), 'state', 'operation', 'alone', 'waiting_ms')
  if held[1] ~= 'queued' then
    withdraw(run)
    return false, true
  end
  if not operations[held[2]] then return false end
  if held[3] == '1' and holding + #given > 0 then return false end
  expire_members(run)
  if settle(run) then return false, true end
  return true, false, tonumber(held[4])
end

-- Give up to `wanted` runs of a lane, the longest waiting first; `aged` takes only those that waited long, `suspects`
-- only those that have to be alone.
local function serve(lane, slot, wanted, aged, suspects)
  local skipped = 0
  while wanted > 0 and not sealed do
    local page = redis.call('ZRANGE', key('lane', lane), skipped, skipped + 49)
    if #page == 0 then return end
    for _, run in ipairs(page) do
      local fit, gone, since = fits(run)
      if suspects and fit and redis.call('HGET', key('run', run), 'alone') ~= '1' then fit = false end
      if fit and aged and now - since < tonumber(args.aged_ms) then return end
      if fit then
        take(run, slot)
        wanted = wanted - 1
        if wanted == 0 or sealed then return end
      elseif not gone then
        skipped = skipped + 1
      end
    end
  end
end

local interactive, batch = tonumber(args.interactive), tonumber(args.batch)

-- A run that has to be alone must not wait for ever for a worker that is never idle: after a while one worker takes no
-- more batch work and gives back what can be gone on with (`renew` asks for that); as soon as it has quick work only, or
-- much later, it takes nothing at all, until it is idle and can have it. One whose long work was asked for and has not
-- been saved (some cannot be) leaves that to the others, and goes on. Quick suspects come before long ones.
local function make_room(run)
  local held = redis.call('HMGET', key('run', run), 'operation', 'waiting_ms', 'lane')
  if not operations[held[1]] then return false end
  if holding == 0 and (interactive > 0 or batch > 0) then
    if not fits(run) then return false end
    take(run, held[3])
    redis.call('DEL', key('draining'))
    return true
  end
  if cannot_be_saved then
    if redis.call('GET', key('draining')) == worker then redis.call('DEL', key('draining')) end
    return true
  end
  if redis.call('SET', key('draining'), worker, 'NX') then ring('room') end
  if redis.call('GET', key('draining')) == worker then
    redis.call('PEXPIRE', key('draining'), DRAINING_MS)
    batch = 0
    local waited = now - tonumber(held[2])
    if waited >= tonumber(args.aged_ms) or (long_ones == 0 and waited >= 2 * tonumber(args.patience_ms)) then
      interactive = 0
    end
  end
  return true
end

local quick, long = {}, {}
for _, run in ipairs(redis.call('ZRANGEBYSCORE', key('alone'), '-inf', now - tonumber(args.patience_ms))) do
  local sort = redis.call('HGET', key('run', run), 'lane') == 'interactive' and quick or long
  sort[#sort + 1] = run
end
for _, run in ipairs(long) do quick[#quick + 1] = run end
for _, run in ipairs(quick) do
  if make_room(run) then break end
end

if interactive > 0 and not sealed then
  -- Ageing: where a worker has no room for batch work, a batch run that waited long gets an interactive slot at every
  -- fourth claim.
  local turn = redis.call('INCR', key('turns'))
  if batch == 0 and turn % 4 == 0 and redis.call('GET', key('draining')) ~= worker then
    serve('batch', 'interactive', 1, true)
    interactive = interactive - #given
  end
  serve('interactive', 'interactive', interactive)
end
-- An idle worker takes a suspect before other batch work, which would keep it from being idle for long.
if batch > 0 and holding + #given == 0 and redis.call('ZCARD', key('alone')) > 0 then
  serve('batch', 'batch', 1, false, true)
end
serve('batch', 'batch', batch)

redis.call('HSET', key('claimed', worker), 'token', args.token, 'runs', table.concat(receipt, ' '))
redis.call('PEXPIRE', key('claimed', worker), CLAIM_KEPT_MS)
return given
