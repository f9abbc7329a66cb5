// LibTorch's header of its process group over gloo includes gloo's headers, which its packages lack. The types that it names are declared here; gloo
// itself is inside LibTorch, and nothing of it is called from here.
#pragma once
