#!lua flags=allow-oom
-- A client wants a job no more. One of several jobs of a computation detaches; the last one ends a waiting computation
-- at once and asks the worker of a running one to stop. Sent twice, it finds the job cancelled or being so.

local at = key('job', args.id)
local held = record('job', args.id)
if not held or held.caller ~= args.caller then return { 'not-found', {} } end

local status = 'cancelled'
if held.state ~= 'cancelled' and not ACTIVE[held.state] then
  status = 'finished'
elseif held.state ~= 'cancelled' then
  local run = record('run', held.run)
  local last = redis.call('SCARD', key('members', held.run)) <= 1
  if run and run.state == 'running' and last then
    status = 'cancelling'
    if held.cancelling ~= '1' then
      redis.call('HSET', at, 'cancelling', '1')
      redis.call('HSET', key('run', held.run), 'cancelling', '1')
      unshare(held.run)
      announce(args.id)
      ring('cancel')
    end
  else
    end_job(args.id, 'cancelled')
    if run and ACTIVE[run.state] then abandon(held.run) end
  end
end
return { status, redis.call('HGETALL', at) }
